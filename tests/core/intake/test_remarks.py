"""Remarks that are made once on prompts and parameters, on the way of a job's records and on that of the Python class."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from infer.core.api.drafts import Written
from infer.core.api.llm import LLM
from infer.core.intake.prompts import PromptIntake
from infer.core.intake.remarks import Remarks
from infer.core.jobs.jsonl import dumps
from infer.core.jobs.record import Record
from infer.core.jobs.tasks import ChatTask, CompletionOptions, GenerateTask
from infer.core.jobs.tasks.chat import ChatOptions
from infer.core.text.chat import ChatTemplate
from infer.core.types.params import SamplingParams

USER = {"role": "user", "content": "a"}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.fixture
def bos_tokenizer(byte_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """In its texts `<s>` spells the token that begins them, as in most tokenizers."""

    def encode(text: str, *, add_special_tokens: bool = True) -> list[int]:
        first, *rest = text.split("<s>")
        ids = list(first.encode())
        for part in rest:
            ids += [256, *part.encode()]
        return [256] * add_special_tokens + ids

    monkeypatch.setattr(byte_tokenizer, "encode", encode, raising=False)
    return byte_tokenizer


def prepare(task: Any, *lines: dict[str, Any]) -> None:
    task.prepare([Record.parse(i, i + 1, 1, dumps(line)) for i, line in enumerate(lines)])


@pytest.fixture
def generate(bos_tokenizer: Any) -> Any:
    """(task, what it said)"""
    said: list[str] = []
    return GenerateTask(CompletionOptions(warn=said.append), bos_tokenizer, max_model_len=64), said


def test_a_prompt_with_two_beginnings(generate: Any) -> None:
    task, said = generate
    prepare(task, {"prompt": "a"}, {"prompt": "a<s>"}, {"prompt": "<s>a", "add_special_tokens": False}, {"prompt": [256, 256, 97]})
    assert said == []
    prepare(task, {"prompt": "<s>a"}, {"prompt": "<s>b"})
    assert said == [
        "a prompt begins with <s>, and the tokenizer puts another <s> before it: leave it out, or give add_special_tokens: false"
    ]


def test_a_conversation_with_two_beginnings(bos_tokenizer: Any) -> None:
    said: list[str] = []
    chat = ChatTemplate({"default": "<s>{{ messages[0].content }}"}, bos_tokenizer, origin="test")
    task = ChatTask(CompletionOptions(warn=said.append), bos_tokenizer, chat, max_model_len=64)
    prepare(task, {"messages": [USER]})
    assert said == []
    prepare(task, {"messages": [USER], "add_special_tokens": True})
    assert len(said) == 1


def test_truncation_that_loses_the_beginning(generate: Any) -> None:
    task, said = generate
    prepare(
        task, {"prompt": "abc", "truncate_prompt_tokens": 9}, {"prompt": "abc", "truncate_prompt_tokens": 2, "truncation_side": "right"}
    )
    assert said == []
    prepare(task, {"prompt": "abc", "truncate_prompt_tokens": 2}, {"prompt": "abcd", "truncate_prompt_tokens": 2})
    assert said == ["truncation on the left cuts off <s>, with which prompts begin; on the right it would stay"]


def test_stop_strings_that_no_text_has(generate: Any) -> None:
    task, said = generate
    prepare(task, {"prompt": "a", "stop": ["x", "<s"]}, {"prompt": "a", "stop": "</s>", "skip_special_tokens": False})
    assert said == []
    prepare(task, {"prompt": "a", "stop": ["x", "</s>"]}, {"prompt": "a", "stop": "</s>"})
    assert said == [
        "stop '</s>' is a special token, which is left out of the text, and so never matches: "
        "give stop_token_ids: [257], or skip_special_tokens: false"
    ]


@pytest.mark.parametrize("name", ["id", "custom_id"])
def test_repeated_ids(generate: Any, name: str) -> None:
    task, said = generate

    def line(value: Any) -> dict[str, Any]:
        body = {"prompt": "a"}
        return {"id": value, **body} if name == "id" else {name: value, "method": "POST", "url": "/v1/completions", "body": body}

    prepare(task, line("1"), line(1), line("2"))
    assert said == []
    prepare(task, line("3"), line("2"), line("1"))
    assert said == [f"line 2 has the {name} of an earlier one, '2': only their order tells such answers apart"]


def test_what_a_template_does_not_look_at(byte_tokenizer: Any) -> None:
    def said_of(template: str, line: dict[str, Any], **kwargs: Any) -> list[str]:
        said: list[str] = []
        chat = ChatTemplate({"default": template}, byte_tokenizer, origin="test")
        options = ChatOptions(chat_template_kwargs=kwargs)
        task = ChatTask(CompletionOptions(warn=said.append), byte_tokenizer, chat, max_model_len=64, chat_options=options)
        prepare(task, {"messages": [USER], **line}, {"messages": [USER], **line})
        return said

    plain = "{{ messages[0].content }}"
    assert said_of(plain, {"tools": TOOLS}) == ["tools has no effect: the model's chat template does not use it"]
    assert said_of(plain, {"tools": TOOLS, "tool_choice": "none"}) == []
    assert said_of(plain, {"tools": []}) == []
    assert said_of(plain + "{% if tools %}{{ tools | tojson }}{% endif %}", {"tools": TOOLS}) == []
    assert said_of(plain, {"documents": [{"text": "x"}]})[0].startswith("documents has no effect")
    assert said_of(plain, {"reasoning_effort": "low"})[0].startswith("reasoning_effort has no effect")
    assert said_of(plain, {}, enable_thinking=False)[0].startswith("enable_thinking has no effect")


class TestInPython:
    def test_prompts(self, bos_tokenizer: Any) -> None:
        said: list[str] = []
        intake = PromptIntake(bos_tokenizer, 8, Remarks(bos_tokenizer, said.append, otherwise="give token ids"))
        params = SamplingParams(truncate_prompt_tokens=3, stop="</s>")
        intake.read([Written.of(prompt, params) for prompt in ("abcd", "<s>a", [256, 256])])
        assert [message.split(":")[0].split(",")[0] for message in said] == [
            "a prompt begins with <s>",
            "truncation on the left cuts off <s>",
            "stop '</s>' is a special token",
        ]
        intake.read([Written.of("<s>abcd", params)])
        assert len(said) == 3

    def test_settings_and_tools(self, tiny_llama: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, logger="infer"):
            llm = LLM(str(tiny_llama), device="cpu", dtype="float32", enforce_eager=True, kv_cache_memory_bytes=1 << 24)
            llm.chat([USER], SamplingParams(max_tokens=1), use_tqdm=False, tools=TOOLS)
        warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert "enforce_eager has no effect on cpu" in warned
        assert "tools has no effect: the model's chat template does not use it" in warned
        assert not any(message.startswith("device:") for message in warned)


@pytest.mark.parametrize(
    ("prompt", "choices", "told"),
    [
        ("Sentiment:", ["positive", "negative"], True),
        ("the film is", ["good", "bad"], True),
        ("Sentiment: ", ["positive", "negative"], False),
        ("Sentiment:\n", ["positive", "negative"], False),
        ("Sentiment:", [" positive", " negative"], False),
        ("Sentiment: (", ["positive", "negative"], False),
        ("感情:", ["正面", "負面"], False),
    ],
)
def test_choices_that_nobody_would_write_without_a_blank(byte_tokenizer: Any, prompt: str, choices: list[str], told: bool) -> None:
    said: list[str] = []
    task = GenerateTask(CompletionOptions(warn=said.append), byte_tokenizer, max_model_len=64)
    line = {"prompt": prompt, "structured_outputs": {"choice": choices}}
    prepare(task, line, line, {"prompt": prompt})
    assert len(said) == told
    assert all(f"choice ' {choices[0]}'" in text for text in said)
