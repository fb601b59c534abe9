"""Batch lines of several urls through one task: each is answered as by the task of its url, and nothing on a line ends the job."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from infer.core.engine.limits import Limits
from infer.core.errors import RECORD_ERROR_CODES
from infer.core.jobs.check import check
from infer.core.jobs.input.reader import RecordReader
from infer.core.jobs.jsonl import dumps
from infer.core.jobs.run import Run, Window
from infer.core.jobs.tasks import ChatTask, CompletionOptions, GenerateTask
from infer.core.jobs.tasks.batch import BatchTask
from infer.core.jobs.tasks.batch.responses import ResponsesTask

MESSAGES = [{"role": "user", "content": "hi"}]
#: A line of each url, as answers to which of the three tasks.
LINES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "abc", "max_tokens": 3}),
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 4}),
    ("/v1/completions", {"prompt": ["ab", [99, 100]], "n": 2}),
    ("/v1/responses", {"input": "hi", "max_output_tokens": 4}),
    ("/chat/completions", {"messages": MESSAGES}),
]


def line(url: str, body: Any, name: str = "a", **more: Any) -> bytes:
    return dumps({"custom_id": name, "method": "POST", "url": url, "body": body, **more})


@pytest.fixture(scope="module")
def make(byte_tokenizer: Any, chatml: Any) -> Callable[..., BatchTask]:
    def task(**options: Any) -> BatchTask:
        chosen = CompletionOptions(batch_only=True, fingerprint="0123456789abcdef", model="tiny", **options)
        tasks = {
            "generate": GenerateTask(chosen, byte_tokenizer, max_model_len=256),
            "chat": ChatTask(chosen, byte_tokenizer, chatml, max_model_len=256),
            "batch": ResponsesTask(chosen, byte_tokenizer, chatml, max_model_len=256),
        }
        return BatchTask(chosen, tasks, does="generates text")

    return task


@pytest.fixture(scope="module")
def answers(make: Any, fake_engine: Any, byte_tokenizer: Any, memory_source: Any, memory_output: Any) -> Callable[..., list[Any]]:
    """answers(lines, engine={...}, window=...): the rows, as they are read."""

    class Limited(fake_engine):  # type: ignore[misc]
        """Refuses what a real engine refuses."""

        def add(self, request: Any) -> None:
            Limits(258, 256, 20, 16, 100).check(request)
            super().add(request)

    def run(lines: list[bytes], *, engine: dict[str, Any] | None = None, window: Window | None = None, **options: Any) -> list[Any]:
        output = memory_output()
        reader = RecordReader(memory_source(b"\n".join(lines)))
        Run(reader, output, window=window).run(Limited(byte_tokenizer, **(engine or {})), make(**options))
        return [json.loads(row) for row in output.data.splitlines()]

    return run


def test_each_line_is_answered_as_its_url_says_in_its_place(answers: Any) -> None:
    lines = [line(url, body, f"c{i}") for i, (url, body) in enumerate(LINES)]
    rows = answers(lines)
    assert [row["custom_id"] for row in rows] == [f"c{i}" for i in range(len(LINES))]
    assert all(row["error"] is None and row["response"]["status_code"] == 200 for row in rows)
    kinds = ["text_completion", "chat.completion", "text_completion", "response", "chat.completion"]
    assert [row["response"]["body"]["object"] for row in rows] == kinds
    assert [choice["index"] for choice in rows[2]["response"]["body"]["choices"]] == [0, 1, 2, 3]
    for schedule in ({"engine": {"max_num_seqs": 1}}, {"window": Window(records=2, batch=1, low_water=1)}):
        assert answers(lines, **schedule) == rows


BAD: list[tuple[bytes, str, str | None, Any]] = [
    # line, code, param, custom_id of the answer
    (b"not json", "invalid_json", None, None),
    (b"[1]", "invalid_json", None, None),
    (b'{"prompt":"a"}', "unsupported", "prompt", None),
    (b'{"text":"a"}', "unsupported", None, None),
    (b'{"custom_id":"a"}', "missing_field", "url", "a"),
    (b'{"custom_id":"a","url":"/v1/completions"}', "missing_field", "body", "a"),
    (b'{"url":"/v1/completions","body":{"prompt":"a"}}', "missing_field", "custom_id", None),
    (line("/v1/completions", {"prompt": "a"}, method="GET"), "invalid_value", "method", "a"),
    (line("/v1/audio/speech", {}), "unsupported", "url", "a"),
    (line("/v1/embeddings", {"input": "a"}), "unsupported", "url", "a"),
    (dumps({"custom_id": "a", "method": "POST", "url": 5, "body": {}}), "invalid_type", "url", "a"),
    (line("/v1/completions", "x"), "invalid_type", "body", "a"),
    (line("/v1/completions", {}), "missing_field", "prompt", "a"),
    (line("/v1/completions", {"prompt": "a", "messages": MESSAGES, "n": 0}), "invalid_value", "n", "a"),
    (line("/v1/completions", {"prompt": "a", "suffix": "x"}), "unsupported", "suffix", "a"),
    (line("/v1/completions", {"messages": MESSAGES}), "unsupported", "messages", "a"),
    (line("/v1/chat/completions", {"prompt": "a"}), "unsupported", "prompt", "a"),
    (line("/v1/chat/completions", {"messages": "hi"}), "invalid_type", "messages", "a"),
    (line("/v1/responses", {}), "missing_field", "input", "a"),
    (line("/v1/responses", {"input": 5}), "invalid_type", "input", "a"),
    (line("/v1/responses", {"input": []}), "invalid_value", "input", "a"),
    (line("/v1/responses", {"input": [{"role": "user"}]}), "missing_field", "input", "a"),
    (line("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "unsupported", "input", "a"),
    (line("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}), "unsupported", "input", "a"),
    (line("/v1/responses", {"input": "a", "max_tokens": 5}), "unsupported", "max_tokens", "a"),
    (line("/v1/responses", {"input": "a", "max_output_tokens": 0}), "invalid_value", "max_output_tokens", "a"),
    (line("/v1/responses", {"input": "a", "messages": MESSAGES}), "unsupported", "messages", "a"),
    (line("/v1/responses", {"input": "a", "previous_response_id": "r"}), "unsupported", "previous_response_id", "a"),
    (line("/v1/responses", {"input": "a", "stream": True}), "unsupported", "stream", "a"),
    (line("/v1/responses", {"input": "a", "n": 2}), "unsupported", "n", "a"),
    (line("/v1/responses", {"input": "a", "tools": [{"type": "web_search"}]}), "unsupported", "tools", "a"),
    (line("/v1/responses", {"input": "a", "text": {"format": {"type": "json_schema", "name": "x"}}}), "invalid_value", "text", "a"),
    (line("/v1/responses", {"input": "a", "include": ["x"]}), "unsupported", "include", "a"),
]


def test_what_is_wrong_is_one_error_in_openais_form(answers: Any) -> None:
    good = line(*LINES[0], "good")
    rows = answers([one for bad, *_ in BAD for one in (bad, good)])
    for (bad, code, param, custom_id), row, after in zip(BAD, rows[::2], rows[1::2], strict=True):
        details = row["response"]["body"]["error"]
        assert (details["code"], details["param"], row["custom_id"]) == (code, param, custom_id), (bad, row)
        assert row["error"] == {"code": code, "message": details["message"]}
        assert (row["response"]["status_code"], details["type"]) == (400, "invalid_request_error")
        assert len(details["message"]) < 300
        assert after["response"]["body"]["choices"] == rows[1]["response"]["body"]["choices"]
    asked = line("/v1/responses", {"input": "a", "max_output_tokens": "x"})
    assert "max_output_tokens must be" in answers([asked])[0]["error"]["message"]


JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2**70, 0.5, -0.0, 1e300, "", "a", "auto", "x" * 300,
    [], [1], ["a"], [[]], [["a"]], [None], {}, {"a": 1},
]  # fmt: skip
FIELDS = [
    "prompt", "prompt_token_ids", "messages", "input", "instructions", "text", "tools", "tool_choice", "n", "best_of",
    "max_tokens", "max_output_tokens", "temperature", "top_p", "stop", "stream", "logprobs", "top_logprobs", "response_format",
    "echo", "suffix", "seed", "include", "reasoning", "truncation", "model", "metadata", "user", "priority", "add_special_tokens",
    "parallel_tool_calls", "chat_template_kwargs", "continue_final_message", "logit_bias", "custom_id", "url", "body", "store",
]  # fmt: skip
GOOD_VALUES: dict[str, list[Any]] = {
    "prompt": ["abc", ["ab", [99]], [97, 98], "x" * 500],
    "messages": [MESSAGES, [{"role": "user", "content": [{"type": "text", "text": "a"}]}], [{"role": 1}], [{"content": "a"}]],
    "input": ["hi", [{"role": "user", "content": "a"}], [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}]],
    "tools": [[{"type": "function", "name": "f"}], [{"type": "function", "function": {"name": "f", "parameters": {}}}]],
    "tool_choice": ["required", "none", {"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}],
    "text": [{"format": {"type": "text"}}, {"format": {"type": "json_object"}}, {"format": 1}, {"format": {"type": []}}],
    "response_format": [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {"type": "string"}}}],
}


def random_line(rng: random.Random) -> bytes:
    """A Batch line, more or less."""
    urls = ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/completions", "/v1/embeddings", "/v1/x"]
    body: Any = {}
    for name in rng.sample(FIELDS, rng.randrange(6)):
        body[name] = rng.choice(GOOD_VALUES.get(name, JUNK) if rng.random() < 0.6 else JUNK)
    url = rng.choice(urls)
    needed = "prompt" if "chat" not in url and "completions" in url else "messages" if "chat" in url else "input"
    if rng.random() < 0.8:
        body.setdefault(needed, GOOD_VALUES[needed][0])
    fields: dict[str, Any] = {"custom_id": "k", "method": "POST", "url": url, "body": body}
    for name in list(fields):
        if rng.random() < 0.04:
            fields[name] = rng.choice(JUNK)
        elif rng.random() < 0.03:
            del fields[name]
    if rng.random() < 0.05:
        fields[rng.choice(FIELDS)] = rng.choice(JUNK)
    data = json.dumps(fields).encode()
    return data[: rng.randrange(1, len(data))] if rng.random() < 0.02 else data


def test_any_line_gets_one_answer(answers: Any) -> None:
    count = 10_000
    rng = random.Random(count)
    lines = [random_line(rng) for _ in range(count)]
    rows = answers(lines)
    assert len(rows) == count
    answered = 0
    for i, row in enumerate(rows):
        assert set(row) == {"id", "custom_id", "response", "error"}
        assert row["id"] == f"infer-0123456789ab-{i}"
        if row["error"] is None:
            answered += 1
            assert row["response"]["body"]["object"] in ("text_completion", "chat.completion", "response")
        else:
            assert row["error"]["code"] in RECORD_ERROR_CODES
            assert row["error"]["code"] != "internal", (lines[i], row)
    assert count * 0.1 < answered < count * 0.9


def test_a_check_finds_what_a_run_finds(make: Any, memory_source: Any) -> None:
    lines = [line(*LINES[0]), line("/v1/embeddings", {"input": "a"}), line(*LINES[2]), b"x", line(*LINES[3])]

    class NoLimits:
        max_model_len = 256

        def check(self, request: Any) -> None:
            pass

    findings = check(RecordReader(memory_source(b"\n".join(lines))), lambda first: make(), NoLimits())  # type: ignore[arg-type]
    assert (findings.num_records, findings.num_failed, dict(findings.errors)) == (5, 2, {"unsupported": 1, "invalid_json": 1})
    assert findings.prompts.count == 4
    assert findings.sequences.count == 6
