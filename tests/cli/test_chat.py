"""`infer chat` on a tiny random model, and on the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SAMPLES = Path(__file__).parents[2] / "sample_data"


def chatml(*messages: tuple[str, str]) -> str:
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages) + "<|im_start|>assistant\n"


def test_a_conversation_is_its_rendered_prompt(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, read_rows: Any) -> None:
    conversation = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "go"}]
    path = write_lines({"messages": conversation, "id": "a", "note": 1})
    plain = write_lines({"prompt": chatml(("user", "hi"), ("assistant", "yes?"), ("user", "go"))}, name="plain.jsonl")
    assert call("chat", "-m", tiny_llama, path, tmp_path / "chat").exit_code == 0
    assert call("generate", "-m", tiny_llama, plain, tmp_path / "plain").exit_code == 0
    (row,), (direct,) = read_rows(tmp_path / "chat"), read_rows(tmp_path / "plain")
    assert row["choices"][0]["message"] == {"role": "assistant", "content": direct["choices"][0]["text"]}
    assert row["usage"] == direct["usage"]
    assert list(row) == ["index", "id", "choices", "usage", "error", "extra"]


def test_system_prompt_field_and_template(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, read_rows: Any) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{{ q }}!")
    path = write_lines({"q": "hi", "return_token_ids": True})
    expected = {
        ("--prompt-field", "q"): chatml(("user", "hi")),
        ("--prompt-field", "q", "--system", "be kind"): chatml(("system", "be kind"), ("user", "hi")),
        ("--template", str(template)): chatml(("user", "hi!")),
    }
    for argv, text in expected.items():
        assert call("chat", "-m", tiny_llama, *argv, "--overwrite", path, tmp_path / "out").exit_code == 0
        (row,) = read_rows(tmp_path / "out")
        plain = write_lines({"prompt": text, "return_token_ids": True}, name="plain.jsonl")
        call("generate", "-m", tiny_llama, "--overwrite", plain, tmp_path / "plain")
        assert row["prompt_token_ids"] == read_rows(tmp_path / "plain")[0]["prompt_token_ids"]


def test_bad_conversations_fail_alone(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, read_rows: Any) -> None:
    good = {"messages": [{"role": "user", "content": "hi"}]}
    result = call("chat", "-m", tiny_llama, write_lines(good, {"messages": []}, {"prompt": "a"}, good), tmp_path / "out")
    assert result.exit_code == 3
    rows = read_rows(tmp_path / "out")
    assert [row["error"] and row["error"]["code"] for row in rows] == [None, "invalid_value", "unsupported", None]
    assert "infer generate" in rows[2]["error"]["message"]


def test_another_chat_template(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, read_rows: Any) -> None:
    path = write_lines({"messages": [{"role": "user", "content": "hi"}]})
    template = tmp_path / "chat.jinja"
    template.write_text("[{{ messages[0].content }}]")
    assert call("chat", "-m", tiny_llama, "--chat-template", template, path, tmp_path / "out").exit_code == 0
    assert read_rows(tmp_path / "out")[0]["usage"]["prompt_tokens"] == 4
    template.write_text("{% if %}")
    result = call("chat", "-m", tiny_llama, "--chat-template", template, "--overwrite", path, tmp_path / "out")
    assert result.exit_code == 1
    assert "not a valid jinja2 template" in result.stderr


def test_a_model_without_a_template_says_so(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (bare / name).symlink_to(tiny_llama / name)
    path = write_lines({"messages": [{"role": "user", "content": "hi"}]})
    result = call("chat", "-m", bare, path, tmp_path / "out")
    assert result.exit_code == 1
    assert "--chat-template" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.real
def test_the_capital_of_france(call: Any, tmp_path: Path, read_rows: Any) -> None:
    result = call("chat", "-m", "smollm2-135m", "--dtype", "float32", "--temperature", "0", SAMPLES / "chat.jsonl", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    answers = {row["id"]: row["choices"][0]["message"]["content"] for row in read_rows(tmp_path / "out")}
    assert "Paris" in answers["paris"]


@pytest.mark.real
def test_the_sample_prompts(call: Any, tmp_path: Path, read_rows: Any) -> None:
    result = call(
        "generate", "-m", "smollm2-135m", "--dtype", "float32", "--temperature", "0", SAMPLES / "generate.jsonl", tmp_path / "out"
    )
    assert result.exit_code == 0, result.stderr
    rows = {row["id"]: row for row in read_rows(tmp_path / "out")}
    assert "Paris" in rows["france"]["choices"][0]["text"]
    assert len(rows["haiku"]["choices"]) == 2
    assert rows[9]["extra"] == {"source": {"set": "arithmetic", "row": 3}}


def test_a_question_is_answered_as_text(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, read_rows: Any) -> None:
    options = ["-m", tiny_llama, "--dtype", "float32", "--device", "cpu", "--temperature", "0", "--max-tokens", "6"]
    asked = call("chat", *options, "--system", "Be brief.", "what is it?")
    assert asked.exit_code == 0
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "what is it?"}]
    call("chat", *options, write_lines({"messages": messages}), tmp_path / "out")
    assert asked.stdout == read_rows(tmp_path / "out")[0]["choices"][0]["message"]["content"].strip() + "\n"
    for name in ("nothing.jsonl", "no such file.jsonl"):
        assert call("chat", *options, name).exit_code == 2
