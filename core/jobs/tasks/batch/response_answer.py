"""The body of an answer to /v1/responses: OpenAI's Response object, without anything that depends on when or where it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: Fields of the request that the answer repeats, and what stands there where the request has none.
_REPEATED: Mapping[str, Any] = {"instructions": None, "max_output_tokens": None, "metadata": {}, "user": None}


def response_body(
    line_id: str, model: str, asked: Mapping[str, Any], settings: Mapping[str, Any], answer: Mapping[str, Any], count: Callable[[str], int]
) -> dict[str, Any]:
    """The Response to one request.

    Args:
        line_id: names the answer, and with an ending each of its items.
        asked: the request's body.
        settings: `temperature`, `top_p` and the like as they were in the end.
        answer: of a chat task: choices (one), and usage.
        count: the number of tokens of a text.
    """
    (choice,) = answer["choices"]
    message, reason = choice["message"], choice["finish_reason"]
    cut = reason == "length"
    status = "incomplete" if cut else "completed"
    reasoning = message.get("reasoning_content")
    output: list[dict[str, Any]] = []
    if reasoning is not None:
        content = [{"type": "reasoning_text", "text": reasoning}]
        output.append({"id": f"{line_id}-reasoning", "type": "reasoning", "summary": [], "content": content, "status": status})
    calls = message.get("tool_calls") or []
    if message["content"] is not None or not calls:
        output.append(_message(f"{line_id}-message", message["content"] or "", choice.get("logprobs"), status))
    output += [_call(f"{line_id}-call-{i}", call, status) for i, call in enumerate(calls)]
    return {
        "id": line_id,
        "object": "response",
        "created_at": 0,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "model": model,
        "output": output,
        "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "text": {"format": _format(asked.get("text"))},
        "tool_choice": asked.get("tool_choice") or "auto",
        "tools": [_tool(tool) for tool in asked.get("tools") or ()],
        "truncation": "disabled",
        **{name: nothing if asked.get(name) is None else asked[name] for name, nothing in _REPEATED.items()},
        **settings,
        "usage": _usage(answer["usage"], 0 if reasoning is None else count(reasoning)),
        **{name: answer[name] for name in ("prompt_token_ids", "prompt_logprobs") if name in answer},
        **({"token_ids": choice["token_ids"]} if "token_ids" in choice else {}),
    }


def _message(name: str, text: str, logprobs: Mapping[str, Any] | None, status: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
    if logprobs is not None:
        part["logprobs"] = logprobs["content"]
    return {"id": name, "type": "message", "role": "assistant", "status": status, "content": [part]}


def _call(name: str, call: Mapping[str, Any], status: str) -> dict[str, Any]:
    function = call["function"]
    known = {"call_id": call["id"], "name": function["name"], "arguments": function["arguments"]}
    return {"id": name, "type": "function_call", **known, "status": status}


def _format(text: Any) -> dict[str, Any]:
    form = (text or {}).get("format") or {"type": "text"}
    return {"type": form["type"], "name": "schema", **form} if form.get("type") == "json_schema" else form


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function", tool)
    return {"type": "function", "description": None, "parameters": None, "strict": None, **function}


def _usage(usage: Mapping[str, Any], reasoning: int) -> dict[str, Any]:
    """In the words of this API. Tokens that were found in the prefix cache are told with --report-cache alone."""
    cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage["total_tokens"],
    }
