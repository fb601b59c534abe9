"""OpenAI Batch lines: how they are read and what is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infer.core.errors import RecordError
from infer.core.jobs.jsonl import dumps
from infer.core.jobs.record import Record
from infer.core.jobs.tasks.rows import error_row
from infer.core.text.templates.template import RecordTemplate
from infer.core.types.outputs import CompletionOutput, Logprob, RequestOutput

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
RUN = {"fingerprint": "0123456789abcdef" * 4, "model": "tiny"}


def line(url: str = COMPLETIONS, body: Any = None, **more: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": url, "body": {"prompt": "ab"} if body is None else body, **more}


def row_of(task: Any, fields: dict[str, Any], output: RequestOutput | None = None, index: int = 7) -> dict[str, Any]:
    """The line a record is answered with, as it is written."""
    (pending,) = task.prepare([Record.parse(index, index + 1, 1, dumps(fields))])
    if pending.error is not None:
        row = error_row(pending, pending.error)
    else:
        row = task.to_row(pending, output or RequestOutput("7", None, pending.prompt, [CompletionOutput(0, "c", [99, 257], "stop")]))
    parsed: dict[str, Any] = json.loads(dumps(row))
    return parsed


def test_a_completion(task: Any) -> None:
    row = row_of(task(**RUN), line(body={"model": "gpt", "prompt": "ab", "max_tokens": 5}))
    assert row == {
        "id": "infer-0123456789ab-7",
        "custom_id": "a",
        "response": {
            "status_code": 200,
            "request_id": "infer-0123456789ab-7",
            "body": {
                "id": "infer-0123456789ab-7",
                "object": "text_completion",
                "created": 0,
                "model": "tiny",
                "choices": [{"index": 0, "text": "c", "finish_reason": "stop", "logprobs": None}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            },
        },
        "error": None,
    }
    assert list(row) == ["id", "custom_id", "response", "error"]


def test_a_chat_completion(task: Any) -> None:
    body = row_of(task("chat", **RUN), line(CHAT, {"messages": MESSAGES}))["response"]["body"]
    assert body["object"] == "chat.completion"
    assert body["choices"] == [{"index": 0, "message": {"role": "assistant", "content": "c"}, "finish_reason": "stop", "logprobs": None}]


def test_a_conversation_without_a_number_of_tokens_fills_the_context(task: Any, prepare: Any) -> None:
    """As OpenAI's and vLLM's servers answer it; a native line keeps the command's default, and so does one of /v1/completions."""
    chat, known = task("chat"), task("chat", max_tokens_known=True)

    def limit(of: Any, **fields: Any) -> Any:
        pending = prepare(of, **fields)
        return pending.params.max_tokens, pending.default_max_tokens

    assert limit(chat, **line(CHAT, {"messages": MESSAGES})) == (None, False)
    assert limit(chat, **line(CHAT, {"messages": MESSAGES, "max_tokens": None})) == (None, False)
    assert limit(chat, **line(CHAT, {"messages": MESSAGES, "max_completion_tokens": 5})) == (5, False)
    assert limit(known, **line(CHAT, {"messages": MESSAGES})) == (16, True)
    assert limit(chat, messages=MESSAGES) == (16, True)
    assert limit(chat, messages=MESSAGES, max_tokens="auto") == (None, False)
    assert limit(task(), **line(COMPLETIONS, {"prompt": "a"})) == (16, True)


def test_the_body_is_read_as_a_native_line(task: Any, prepare: Any) -> None:
    native = {"prompt": "ab", "max_tokens": 3, "temperature": 0.5, "seed": 4, "stop": "x", "n": 2, "logprobs": 1}
    a, b = prepare(task(), **native), prepare(task(), **line(body=native))
    assert (a.prompt, a.params, a.default_max_tokens) == (b.prompt, b.params, b.default_max_tokens)
    with_field = task(prompt_field="q")
    assert prepare(with_field, **line(body={"q": "why"})).prompt == [256, *b"why"]
    with_template = task(template=RecordTemplate.load("{{ q }}?"))
    assert prepare(with_template, **line(body={"q": "why"})).prompt == [256, *b"why?"]


def test_logprobs_and_token_ids(task: Any) -> None:
    entry = {98: Logprob(-0.1, 1, "b"), 99: Logprob(-3.0, 2, "c")}
    output = RequestOutput("7", None, [1], [CompletionOutput(0, "b", [98], "stop", 98, -0.1, [entry])])
    asked = {"prompt": "a", "logprobs": 2, "return_token_ids": True}
    body = row_of(task(report_cache=True), line(body=asked), output)["response"]["body"]
    assert body["prompt_token_ids"] == [1]
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    (choice,) = body["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"b": -0.1, "c": -3.0}]
    assert (choice["token_ids"], choice["stop_reason"]) == ([98], 98)


BAD: dict[str, tuple[dict[str, Any], str, str | None, Any]] = {
    # name: (line, code, param, custom_id of the answer)
    "no custom_id": ({"method": "POST", "url": COMPLETIONS, "body": {"prompt": "a"}}, "missing_field", "custom_id", None),
    "null custom_id": (line(custom_id=None), "missing_field", "custom_id", None),
    "custom_id is a list": (line(custom_id=["a"]), "invalid_type", "custom_id", None),
    "custom_id is a boolean": (line(custom_id=True), "invalid_type", "custom_id", None),
    "custom_id is rounded": (line(custom_id=2**53), "invalid_value", "custom_id", None),
    "custom_id is huge": (line(custom_id=2**70), "invalid_value", "custom_id", None),
    "method": (line(method="GET"), "invalid_value", "method", "a"),
    "method is a number": (line(method=1), "invalid_value", "method", "a"),
    "url is null": ({**line(), "url": None}, "invalid_type", "url", "a"),
    "url is unknown": (line("/v1/audio/speech"), "unsupported", "url", "a"),
    "responses": (line("/v1/responses", {"input": "a"}), "unsupported", "url", "a"),
    "chat": (line(CHAT, {"messages": MESSAGES}), "unsupported", "url", "a"),
    "embed": (line("/v1/embeddings", {"input": "a"}), "unsupported", "url", "a"),
    "body is a string": (line(body="x"), "invalid_type", "body", "a"),
    "body is null": ({**line(), "body": None}, "invalid_type", "body", "a"),
    "body is empty": ({**line(), "body": {}}, "missing_field", "prompt", "a"),
    "prompt is a number": (line(body={"prompt": 5}), "invalid_type", "prompt", "a"),
    "temperature": (line(body={"prompt": "a", "temperature": -1}), "invalid_value", "temperature", "a"),
    "stream": (line(body={"prompt": "a", "stream": True}), "unsupported", "stream", "a"),
}


@pytest.mark.parametrize("name", BAD)
def test_failures_are_told_in_both_ways(task: Any, name: str) -> None:
    fields, code, param, custom_id = BAD[name]
    row = row_of(task(**RUN), fields)
    message = row["error"]["message"]
    assert row == {
        "id": "infer-0123456789ab-7",
        "custom_id": custom_id,
        "response": {
            "status_code": 400,
            "request_id": "infer-0123456789ab-7",
            "body": {"error": {"type": "invalid_request_error", "code": code, "message": message, "param": param, "retryable": False}},
        },
        "error": {"code": code, "message": message},
    }
    if name in ("chat", "embed"):
        assert f"infer {name}" in message


def test_urls_of_other_commands(task: Any, code_of: Any) -> None:
    t = task("chat")
    assert code_of(t, **line(COMPLETIONS)) == ("unsupported", "url")
    assert "belongs to infer generate" in row_of(t, line(COMPLETIONS))["error"]["message"]
    assert "did you mean '/v1/chat/completions'?" in row_of(t, line("/v1/chat/completion"))["error"]["message"]
    assert len(row_of(t, line("x" * 100_000))["error"]["message"]) < 400


@pytest.mark.parametrize("code", ["internal", "non_finite_logits"])
def test_what_is_not_the_requests_fault_is_a_500(task: Any, code: str) -> None:
    (pending,) = task().prepare([Record.parse(0, 1, 1, dumps(line()))])
    row = error_row(pending, RecordError(code, "x"))
    assert row["response"]["status_code"] == 500
    assert row["response"]["body"]["error"]["type"] == "server_error"


@pytest.mark.parametrize("custom_id", ["", "é", 0, 7, -7, 2**53 - 1])
def test_custom_ids_come_back(task: Any, custom_id: Any) -> None:
    assert row_of(task(), line(custom_id=custom_id))["custom_id"] == custom_id


@pytest.mark.parametrize(
    "columns",
    [
        {"url": "http://x", "body": "text"},
        {"url": COMPLETIONS, "body": {"prompt": "b"}},
        {"url": 1, "body": None, "method": "x", "custom_id": "k"},
        {"url": COMPLETIONS, "custom_id": "k", "method": "POST"},
    ],
)
def test_a_native_line_may_have_columns_of_such_names(task: Any, columns: dict[str, Any]) -> None:
    row = row_of(task(), {"prompt": "a", **columns})
    assert row["extra"] == columns
    assert row["error"] is None


def test_prompt_field_may_be_body(task: Any, prepare: Any) -> None:
    pending = prepare(task(prompt_field="body"), url="http://x", body="text", custom_id="k")
    assert pending.prompt == [256, *b"text"]
    assert pending.extra == {"url": "http://x", "custom_id": "k"}


def test_native_and_batch_lines_mix(task: Any) -> None:
    t = task()
    records = [Record.parse(i, i + 1, 1, dumps(f)) for i, f in enumerate([line(), {"prompt": "a", "id": 1}, line(url="x"), {"x": 1}])]
    rows = [p.batch is not None for p in t.prepare(records)]
    assert rows == [True, False, True, False]
    (broken,) = t.prepare([Record.parse(0, 1, 1, b'{"custom_id":"a","url":"/v1/completions","body":{')])
    assert list(error_row(broken, broken.error)) == ["index", "error"]  # nobody knows what it was going to be


def test_misspellings(task: Any, prepare: Any, code_of: Any) -> None:
    said: list[str] = []
    t = task(warn=said.append)
    for i in range(3):
        pending = prepare(t, **line(custom_id=i, body={"prompt": "a", "max_token": 5, "colour": 1}))
        assert pending.extra == {}
    assert said == ["field 'max_token' is not a parameter and is ignored; did you mean 'max_tokens'?"]
    prepare(t, **line(max_tokens=5, metadata={}))
    assert said[1:] == ["field 'max_tokens' beside body has no effect; put it into body"]
    strict = task(strict=True)
    assert code_of(strict, **line(body={"prompt": "a", "max_token": 5})) == ("unknown_field", "max_token")
    assert code_of(strict, **line(max_tokens=5)) == ("unknown_field", "max_tokens")
    assert prepare(strict, **line(metadata={})).extra == {}
