"""/v1/responses: the request as a chat request, and the answer as OpenAI's Response object."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infer.core.jobs.jsonl import dumps
from infer.core.jobs.record import Record
from infer.core.jobs.tasks import CompletionOptions
from infer.core.jobs.tasks.batch.response_request import chat_fields
from infer.core.jobs.tasks.batch.responses import ResponsesTask
from infer.core.jobs.tasks.chat import ChatOptions
from infer.core.types.outputs import CompletionOutput, RequestOutput

CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}


def test_input_as_messages() -> None:
    assert chat_fields({"input": "hi"}) == {"messages": [{"role": "user", "content": "hi"}]}
    parts = [{"type": "input_text", "text": "a"}]
    items = [
        {"role": "developer", "content": "b"},
        {"type": "message", "role": "user", "content": parts},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c", "annotations": []}]},
        CALL,
        {**CALL, "call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "9"},
        CALL,
    ]
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert chat_fields({"input": items, "instructions": "z"})["messages"] == [
        {"role": "system", "content": "z"},
        {"role": "developer", "content": "b"},
        {"role": "user", "content": parts},
        {
            "role": "assistant",
            "content": [{"type": "output_text", "text": "c", "annotations": []}],
            "reasoning_content": "so",
            "tool_calls": [call, {**call, "id": "c2"}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "9"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]


def test_parameters_as_the_chat_api_calls_them() -> None:
    schema = {"type": "string"}
    body = {
        "input": "a",
        "max_output_tokens": 7,
        "temperature": 0.5,
        "top_k": 3,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}, "verbosity": "medium"},
        "tools": [TOOL],
        "tool_choice": {"type": "function", "name": "f"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "truncation": "disabled",
        "store": False,
        "previous_response_id": None,
        "background": False,
    }
    assert chat_fields(body) == {
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_k": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "store": False,
    }


@pytest.fixture
def body_of(byte_tokenizer: Any, chatml: Any) -> Any:
    """body_of(request, text, finish_reason): the body of its answer, as it is written."""

    def answer(request: dict[str, Any], text: str, reason: str = "stop", **parsers: str) -> dict[str, Any]:
        options = CompletionOptions(batch_only=True, fingerprint="0123456789abcdef", model="tiny")
        task = ResponsesTask(options, byte_tokenizer, chatml, max_model_len=500, chat_options=ChatOptions(**parsers))  # type: ignore[arg-type]
        fields = {"custom_id": "c", "method": "POST", "url": "/v1/responses", "body": request}
        (pending,) = task.prepare([Record.parse(3, 4, 1, dumps(fields))])
        assert pending.error is None, pending.error
        ids = list(text.encode())
        row = json.loads(dumps(task.to_row(pending, RequestOutput("3", None, [1, 2], [CompletionOutput(0, text, ids, reason)]))))
        assert (row["custom_id"], row["response"]["status_code"], row["error"]) == ("c", 200, None)
        body: dict[str, Any] = row["response"]["body"]
        return body

    return answer


def test_a_response(body_of: Any) -> None:
    """Every field that the type of OpenAI's package requires is there, and nothing that tells when it was made."""
    body = body_of({"input": "hi", "instructions": "be", "metadata": {"k": "v"}, "temperature": 0, "max_output_tokens": 9}, "ok")
    name = "infer-0123456789ab-3"
    part = {"type": "output_text", "text": "ok", "annotations": []}
    assert body == {
        "id": name,
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "tiny",
        "output": [{"id": f"{name}-message", "type": "message", "role": "assistant", "status": "completed", "content": [part]}],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "truncation": "disabled",
        "instructions": "be",
        "max_output_tokens": 9,
        "metadata": {"k": "v"},
        "user": None,
        "temperature": 0.0,
        "top_p": 1.0,
        "usage": {
            "input_tokens": 2,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 4,
        },
    }


def test_an_answer_that_was_cut_says_so(body_of: Any) -> None:
    body = body_of({"input": "hi"}, "ok", "length")
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["output"][0]["status"] == "incomplete"


def test_calls_and_reasoning_are_items(body_of: Any) -> None:
    text = '<think>hm</think><tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    body = body_of({"input": "hi", "tools": [TOOL]}, text, tool_call_parser="hermes", reasoning_parser="deepseek_r1")
    reasoning, call = body["output"]
    assert (reasoning["type"], reasoning["content"]) == ("reasoning", [{"type": "reasoning_text", "text": "hm"}])
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "f", {"a": 1})
    assert body["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}
    assert body["tools"] == [{"type": "function", "description": None, "name": "f", "parameters": {"type": "object"}, "strict": True}]
    forced = body_of({"input": "hi", "tools": [TOOL], "tool_choice": "required"}, '[{"name": "f", "parameters": {}}]')
    assert [item["type"] for item in forced["output"]] == ["function_call"]
    assert forced["tool_choice"] == "required"
