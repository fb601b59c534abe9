"""Sampling parameters from the command line to the answer, on a tiny random model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Answers = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def answers(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any, read_rows: Any) -> Answers:
    """answers({...}, {...}, flags=[...], command="chat", code=3): the rows of a run; what it said is in `answers.said`."""

    def run(
        *lines: dict[str, Any], flags: tuple[Any, ...] = (), command: str = "generate", code: int = 0, model: Path = tiny_llama
    ) -> list[dict[str, Any]]:
        out = tmp_path / "out.jsonl"
        argv = ["-m", model, "--dtype", "float32", "--device", "cpu", "--overwrite", *flags]
        result = call(command, *argv, write_lines(*lines), out)
        assert result.exit_code == code, result.stderr
        run.said = result.stderr  # type: ignore[attr-defined]
        rows: list[dict[str, Any]] = read_rows(out) if code in (0, 3) else []
        return rows

    return run


class TestRows:
    def test_prompt_logprobs(self, answers: Answers) -> None:
        (row,) = answers({"prompt": "abc", "prompt_logprobs": 2, "max_tokens": 1})
        first, *rest = row["prompt_logprobs"]
        assert first is None
        assert len(rest) == 2
        for entries, token in zip(rest, "bc", strict=True):
            assert 2 <= len(entries) <= 3
            assert token in [entry["decoded_token"] for entry in entries.values()]
            assert {1, 2} <= {entry["rank"] for entry in entries.values()}
            assert all(set(entry) == {"logprob", "rank", "decoded_token"} and entry["logprob"] <= 0 for entry in entries.values())
        assert list(row)[:3] == ["index", "prompt_logprobs", "choices"]

    def test_prompt_logprobs_of_a_chat_and_of_a_batch_line(self, answers: Answers) -> None:
        body = {"messages": [{"role": "user", "content": "a"}], "prompt_logprobs": 0, "max_tokens": 1}
        line = {"custom_id": "x", "method": "POST", "url": "/v1/chat/completions", "body": body}
        native, batch = answers(body, line, command="chat")
        assert native["prompt_logprobs"] == batch["response"]["body"]["prompt_logprobs"]
        assert len(native["prompt_logprobs"]) == native["usage"]["prompt_tokens"]

    def test_logprobs_of_the_whole_vocabulary(self, answers: Answers) -> None:
        line = {"prompt": "abc", "logprobs": -1, "max_tokens": 2, "return_token_ids": True}
        (row,) = answers(line, code=3)
        assert row["error"]["message"] == "logprobs -1 (all 259 tokens) is above max_logprobs 20"
        (row,) = answers(line, flags=("--max-logprobs", "-1"))
        best = row["choices"][0]["logprobs"]["top_logprobs"]
        assert len(best) == 2
        assert all(len(entries) > 128 for entries in best)  # pieces of characters look alike
        chat = {"messages": [{"role": "user", "content": "a"}], "logprobs": -1, "max_tokens": 1}
        (row,) = answers(chat, flags=("--max-logprobs", "-1"), command="chat")
        assert len(row["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 259

    def test_best_of(self, answers: Answers) -> None:
        asked = {"prompt": "abc", "max_tokens": 5, "seed": 3, "logprobs": 0}
        (every, best) = answers({**asked, "n": 5}, {**asked, "n": 2, "best_of": 5})
        ranked = sorted(every["choices"], key=lambda choice: -choice["cumulative_logprob"])[:2]
        assert [c["text"] for c in best["choices"]] == [c["text"] for c in ranked]
        assert [c["index"] for c in best["choices"]] == [0, 1]
        assert best["usage"]["completion_tokens"] <= 10

    def test_an_answer_without_text_has_token_ids(self, answers: Answers) -> None:
        (row,) = answers({"prompt": "abc", "max_tokens": 3}, flags=("--no-detokenize",))
        assert row["prompt_token_ids"]
        (choice,) = row["choices"]
        assert (choice["text"], len(choice["token_ids"])) == ("", 3)


class TestTruncation:
    LONG = "0123456789" * 60  # max_model_len is 512

    def test_left_right_or_error(self, answers: Answers) -> None:
        line = {"prompt": self.LONG, "max_tokens": 1, "return_token_ids": True}
        (whole,) = answers({"prompt": self.LONG[:300] + "x", "return_token_ids": True})
        digits = dict(zip("0123456789", whole["prompt_token_ids"], strict=False))
        ids = [digits[c] for c in self.LONG]
        assert answers(line, flags=("--truncate", "error"), code=3)[0]["error"]["code"] == "prompt_too_long"
        assert answers(line, flags=("--truncate", "left"))[0]["prompt_token_ids"] == ids[-511:]
        assert answers(line, flags=("--truncate", "right"))[0]["prompt_token_ids"] == ids[:511]
        assert answers({**line, "truncate_prompt_tokens": 7})[0]["prompt_token_ids"] == ids[-7:]
        assert answers({**line, "truncation_side": "right"}, flags=("--truncate-prompt-tokens", "7"))[0]["prompt_token_ids"] == ids[:7]
        assert answers({"prompt": ids, "return_token_ids": True, "truncate_prompt_tokens": 3})[0]["prompt_token_ids"] == ids[-3:]

    def test_megabytes_are_cut_too(self, answers: Answers) -> None:
        lines = [{"prompt": "a" * 300_000 + "end", "truncate_prompt_tokens": 4, "return_token_ids": True}, {"prompt": "aend"}]
        (row, short) = answers(*lines, flags=("--return-token-ids", "--max-tokens", "2"))
        assert row["prompt_token_ids"] == short["prompt_token_ids"]
        assert row["usage"]["prompt_tokens"] == 4


class TestGenerationConfig:
    @pytest.fixture
    def model(self, tiny_llama: Path, tmp_path: Path) -> Path:
        """The tiny model with defaults of its own."""
        folder = tmp_path / "with-defaults"
        shutil.copytree(tiny_llama, folder)
        (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "max_new_tokens": 7, "eos_token_id": 2}))
        return folder

    LINES = ({"prompt": "abc"}, {"prompt": "abc", "max_tokens": 3}, {"prompt": "abc", "temperature": 1.0})

    def lengths(self, rows: list[dict[str, Any]]) -> list[int]:
        return [row["usage"]["completion_tokens"] for row in rows]

    def test_it_gives_defaults(self, answers: Answers, model: Path) -> None:
        rows = answers(*self.LINES, model=model, flags=("--ignore-eos",))
        assert self.lengths(rows) == [7, 3, 7]
        assert rows[0]["choices"][0]["text"].startswith(rows[1]["choices"][0]["text"])  # both are greedy
        assert rows[2]["choices"] != rows[0]["choices"]
        said = answers.said  # type: ignore[attr-defined]
        assert said.count("sampling defaults of the model's generation_config.json") == 1
        assert self.lengths(answers(*self.LINES, model=model, flags=("--ignore-eos", "--max-tokens", "2"))) == [2, 3, 2]

    def test_none_and_override(self, answers: Answers, model: Path, tmp_path: Path) -> None:
        flags = ("--ignore-eos", "--generation-config")
        assert self.lengths(answers(*self.LINES, model=model, flags=(*flags, "none"))) == [16, 3, 16]
        assert "sampling defaults" not in answers.said  # type: ignore[attr-defined]
        over = ("--override-generation-config", '{"max_new_tokens": 5}')
        assert self.lengths(answers(*self.LINES, model=model, flags=("--ignore-eos", *over))) == [5, 3, 5]
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "generation_config.json").write_text('{"max_new_tokens": 4}')
        assert self.lengths(answers(*self.LINES, model=model, flags=(*flags, tmp_path / "elsewhere"))) == [4, 3, 4]

    def test_wrong(self, answers: Answers, model: Path) -> None:
        answers({"prompt": "a"}, flags=("--generation-config", "/nowhere"), code=2)
        assert "generation_config=/nowhere: " in answers.said  # type: ignore[attr-defined]
        answers({"prompt": "a"}, flags=("--n", "2"), model=model, code=2)
        assert "--generation-config none leaves it out" in answers.said  # type: ignore[attr-defined]


class TestWithoutTokenizer:
    FLAGS = ("--skip-tokenizer-init",)

    def test_token_ids_in_and_out(self, answers: Answers) -> None:
        lines = [{"prompt_token_ids": [70, 71, 72], "max_tokens": 4, "logprobs": 1}, {"prompt": "abc"}, {"prompt": [70], "stop": "x"}]
        row, text, stop = answers(*lines, flags=self.FLAGS, code=3)
        (choice,) = row["choices"]
        assert (choice["text"], len(choice["token_ids"]), row["prompt_token_ids"]) == ("", 4, [70, 71, 72])
        assert choice["logprobs"]["tokens"] == [f"token_id:{i}" for i in choice["token_ids"]]
        assert text["error"]["code"] == stop["error"]["code"] == "unsupported"
        (with_text,) = answers({**lines[0], "return_token_ids": True})
        assert with_text["choices"][0]["token_ids"] == choice["token_ids"]

    def test_what_needs_text_is_refused_at_once(self, answers: Answers) -> None:
        answers({"prompt": [5]}, flags=(*self.FLAGS, "--stop", "x"), code=2)
        assert "stop needs a tokenizer" in answers.said  # type: ignore[attr-defined]
        answers({"messages": []}, flags=self.FLAGS, command="chat", code=2)
        assert "a conversation needs a tokenizer" in answers.said  # type: ignore[attr-defined]

    def test_a_folder_without_a_tokenizer(self, answers: Answers, tiny_llama: Path, tmp_path: Path) -> None:
        bare = tmp_path / "bare"
        shutil.copytree(tiny_llama, bare, ignore=shutil.ignore_patterns("tokenizer*", "*.jinja", "special_tokens_map.json"))
        (row,) = answers({"prompt": [70, 71]}, flags=self.FLAGS, model=bare)
        assert row["choices"][0]["token_ids"]


class TestPriority:
    LINES = tuple({"prompt": f"{i} abc", "max_tokens": 5, "priority": -i} for i in range(12))

    def test_answers_are_the_same(self, answers: Answers) -> None:
        first_come = answers(*self.LINES)
        assert "priority has no effect without --scheduling-policy priority" in answers.said  # type: ignore[attr-defined]
        by_priority = answers(*self.LINES, flags=("--scheduling-policy", "priority", "--max-num-seqs", "2"))
        assert by_priority == first_come
        assert "has no effect" not in answers.said  # type: ignore[attr-defined]


class TestConstraints:
    def test_every_way_to_ask_for_a_choice(self, answers: Answers) -> None:
        asked = {"prompt": "a", "max_tokens": 8}
        ways = [
            {**asked, "structured_outputs": {"choice": ["yes", "no"]}},
            {**asked, "guided_choice": ["yes", "no"]},
            {**asked, "guided_regex": "yes|no"},
            {**asked, "guided_grammar": 'root ::= "yes" | "no"'},
        ]
        for row in answers(*ways):
            assert row["choices"][0]["text"] in ("yes", "no")
            assert row["choices"][0]["finish_reason"] == "stop"
        for flags in (("--choice", "yes", "--choice", "no"), ("--regex", "yes|no")):
            (row,) = answers(asked, flags=flags)
            assert row["choices"][0]["text"] in ("yes", "no")

    def test_a_record_wins(self, answers: Answers) -> None:
        asked = {"prompt": "a", "max_tokens": 8, "temperature": 0}
        lines = [asked, {**asked, "guided_choice": ["no"]}, {**asked, "response_format": {"type": "text"}}]
        texts = [row["choices"][0]["text"] for row in answers(*lines, flags=("--choice", "yes"))]
        (free,) = answers(asked)
        assert texts == ["yes", "no", free["choices"][0]["text"]]

    def test_response_format_of_a_chat(self, answers: Answers) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
        formats = [{"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}, {"type": "json_object"}]
        messages = [{"role": "user", "content": "a"}]
        lines = [{"messages": messages, "max_tokens": 300, "response_format": f, "seed": 1} for f in formats]
        constrained, loose = answers(*lines, command="chat")
        assert json.loads(constrained["choices"][0]["message"]["content"])["a"] in (True, False)
        if loose["choices"][0]["finish_reason"] == "stop":
            assert isinstance(json.loads(loose["choices"][0]["message"]["content"]), dict)

    def test_the_engines_settings(self, answers: Answers) -> None:
        schema = json.dumps({"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 3})
        lines = [{"prompt": "a", "max_tokens": 400, "seed": seed} for seed in range(8)]

        def spaced(*flags: str) -> list[bool]:
            texts = [row["choices"][0]["text"] for row in answers(*lines, flags=("--json-schema", schema, *flags))]
            assert all(len(json.loads(text)) == 3 for text in texts)
            return [text != json.dumps(json.loads(text)) for text in texts]

        assert any(spaced())
        assert not any(spaced("--structured-outputs-config", '{"disable_any_whitespace": true}'))

    def test_a_grammar_that_cannot_be_compiled_is_one_records_error(self, answers: Answers) -> None:
        lines = [{"prompt": "a", "guided_grammar": "root ::= nowhere"}, {"prompt": "a", "guided_choice": ["b"]}]
        broken, fine = answers(*lines, code=3)
        assert broken["error"]["code"] == "grammar_error"
        assert fine["choices"][0]["text"] == "b"


def test_check_finds_what_a_run_refuses(answers: Answers, call: Any, tiny_llama: Path, tmp_path: Path) -> None:
    lines = [
        {"prompt": "a", "allowed_token_ids": [9999]},
        {"prompt": "a", "logit_bias": {"9999": 1}},
        {"prompt": "a", "prompt_logprobs": 21},
        {"prompt": "a", "bad_words": [""]},
        {"prompt": "a", "best_of": 2, "n": 3},
        {"prompt": "a", "response_format": {"type": "xml"}},
        {"prompt": "a" * 600},
        {"prompt": "a" * 600, "truncate_prompt_tokens": 5},
        {"prompt": "a", "n": 2, "best_of": 4, "max_tokens": 10},
    ]
    rows = answers(*lines, code=3)
    failed = [row["error"]["message"] for row in rows if row["error"]]
    assert len(failed) == 7
    result = call("check", "-m", tiny_llama, "--device", "cpu", "--json", tmp_path / "in.jsonl")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["records"]["failed"]) == (3, 7)
    firsts = {row["error"]["code"]: row["error"]["message"] for row in reversed(rows) if row["error"]}
    assert {code: error["message"] for code, error in told["errors"].items()} == firsts
    assert told["max_output_tokens"] == 16 + 4 * 10


MIXES: list[dict[str, Any]] = [
    {},
    {"temperature": 0, "logprobs": 3},
    {"temperature": 0.7, "top_p": 0.8, "min_p": 0.05, "prompt_logprobs": 2},
    {"n": 3, "seed": 5, "top_k": 12, "logprobs": 1},
    {"n": 2, "best_of": 4, "presence_penalty": 1.5, "repetition_penalty": 1.3},
    {"bad_words": ["a", "b c"], "logit_bias": {"80": 5, "81": -100}, "frequency_penalty": 0.5},
    {"allowed_token_ids": list(range(70, 100)), "min_tokens": 5, "stop": ["ab", "c"]},
    {"stop_token_ids": [80, 81, 82], "include_stop_str_in_output": True, "stop": "e"},
    {"truncate_prompt_tokens": 9, "truncation_side": "right", "skip_reading_prefix_cache": True},
    {"truncate_prompt_tokens": -1, "ignore_eos": True, "max_tokens": 20},
    {"guided_regex": "[a-c]{3,9}", "temperature": 1.5},
    {"response_format": {"type": "json_object"}, "max_tokens": 12, "n": 2},
    {"detokenize": False, "skip_special_tokens": False, "add_special_tokens": False},
    {"top_k": 1, "logprobs": 20, "return_token_ids": True},
    {"temperature": 3.0, "min_p": 0.2, "seed": 11, "priority": 4},
    {"top_p": 0},
]


def test_a_mix_gets_what_it_gets_alone(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> None:
    """Each line of a mixed file is, byte for byte, the line of a run of that record alone."""
    shared = "A beginning that some prompts share, long enough for several blocks. "
    path = write_lines(*({"prompt": shared * (i % 3) + "xyz" * (i + 1), "max_tokens": 6 + i % 5, **mix} for i, mix in enumerate(MIXES)))
    flags = ["-m", tiny_llama, "--dtype", "bfloat16", "--num-gpu-blocks-override", "60", "--overwrite", "-q"]

    def run(*more: Any) -> list[bytes]:
        out = tmp_path / "out.jsonl"
        result = call("generate", *flags, *more, path, out)
        assert result.exit_code in (0, 3), result.stderr
        return out.read_bytes().splitlines()

    together = run()
    assert [json.loads(line)["error"] is None for line in together] == [True] * (len(MIXES) - 1) + [False]
    assert run("--max-num-seqs", "3", "--max-num-batched-tokens", "32") == together
    for i, line in enumerate(together):
        assert run("--offset", i, "--limit", 1) == [line], MIXES[i]


class TestReasoningAndLoops:
    def test_a_budget_of_thinking(self, answers: Answers) -> None:
        """By a flag and of a record; what the model wrote is split where it was cut."""
        chat = {"messages": [{"role": "user", "content": "<think>"}], "add_generation_prompt": False, "max_tokens": 20, "ignore_eos": True}
        template = "{{ messages[0].content }}"
        flags = ("--chat-template", template, "--reasoning-parser", "qwen3", "--thinking-token-budget", "4", "--temperature", "0")
        short, longer, free = answers(
            chat,
            {**chat, "thinking_token_budget": 6},
            {**chat, "thinking_token_budget": -1},
            flags=(*flags, "--return-token-ids"),
            command="chat",
        )
        end = [3 + sorted([*range(33, 127)]).index(ord(c)) for c in "</think>"]
        ids = [row["choices"][0]["token_ids"] for row in (short, longer, free)]
        assert ids[0][:4] == ids[1][:4] == ids[2][:4]
        assert len(set(map(tuple, (ids[0][4:12], ids[1][6:14], end)))) == 1
        assert end[0] not in ids[2][:8] or ids[2][:8] != end
        for row in (short, longer):
            assert "reasoning_content" in row["choices"][0]["message"]

    def test_a_budget_of_what_is_not_known(self, answers: Answers) -> None:
        (row,) = answers({"prompt": "a", "thinking_token_budget": 6}, code=3)
        assert row["error"]["code"] == "unsupported"
        assert "--reasoning-config" in row["error"]["message"]
        answers({"prompt": "a"}, flags=("--thinking-token-budget", "6"), code=2)
        assert "--thinking-token-budget needs to know how" in answers.said  # type: ignore[attr-defined]
        answers({"prompt": "a"}, flags=("--reasoning-config", '{"reasoning_end_str": "x"}'), code=2)
        assert "reasoning_config needs both reasoning_start_str and reasoning_end_str" in answers.said  # type: ignore[attr-defined]

    def test_loops(self, answers: Answers) -> None:
        line = {"prompt": "a", "max_tokens": 30, "temperature": 0, "logit_bias": {"70": 100}}
        batch = {"custom_id": "x", "method": "POST", "url": "/v1/completions", "body": line}
        flags = ("--repetition-detection", '{"max_pattern_size": 3, "min_count": 4}')
        off = {**line, "repetition_detection": {"max_pattern_size": 0}}
        one, same, other = answers(line, batch, off, flags=flags)
        told = [row["choices"][0] for row in (one, same["response"]["body"], other)]
        assert [c["finish_reason"] for c in told] == ["repetition", "repetition", "length"]
        assert told[0]["stop_reason"] == told[1]["stop_reason"] == "repetition_detected"
        assert "repetition 2" in answers.said  # type: ignore[attr-defined]

    def test_a_record_with_a_template(self, answers: Answers) -> None:
        line = {"messages": [{"role": "user", "content": "hi"}], "chat_template": "{{ messages[0].content }}!", "max_tokens": 1}
        (row,) = answers(line, command="chat", code=3)
        assert "--trust-request-chat-template" in row["error"]["message"]
        (row,) = answers(line, command="chat", flags=("--trust-request-chat-template",))
        assert row["usage"]["prompt_tokens"] == 3
