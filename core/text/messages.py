"""Chat messages as they arrive, checked and brought into the shape that templates expect. Plain data in, plain data out."""

from __future__ import annotations

import json
from typing import Any

from ..errors import RecordError

_TEXT_KEY = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_MEDIA = ("audio", "file", "image", "video", "prompt_embeds")
#: Names a message's reasoning comes under; templates read one of the first two.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def prepare(messages: Any, *, parts: bool, wrap: bool, developer: bool) -> list[dict[str, Any]]:
    """Checked copies of the messages, ready for a template.

    Args:
        messages: a record's `messages`, of any type.
        parts: the template takes content as a list of parts; else text parts are joined by newlines.
        wrap: the template takes nothing but lists: a string becomes a list of one text part.
        developer: the template knows the role "developer"; else it becomes "system".

    Raises RecordError (invalid_type, missing_field, invalid_value, unsupported), param "messages".
    """
    if not isinstance(messages, list):
        raise _error("invalid_type", f"messages must be a list, not {type(messages).__name__}")
    if not messages:
        raise _error("invalid_value", "messages is empty; give at least one message")
    return [_message(message, f"messages[{i}]", parts, wrap, developer) for i, message in enumerate(messages)]


def _message(message: Any, where: str, parts: bool, wrap: bool, developer: bool) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise _error("invalid_type", f"{where} must be an object, not {type(message).__name__}")
    if "role" not in message:
        raise _error("missing_field", f"{where} has no role")
    role = message["role"]
    if not isinstance(role, str):
        raise _error("invalid_type", f"{where}.role must be a string, not {type(role).__name__}")
    if "content" not in message and role != "assistant":
        raise _error("missing_field", f"{where} has no content")
    # A null is left out: many templates would write "None", and all of them know a missing key.
    clean = {key: value for key, value in message.items() if value is not None}
    if role == "developer" and not developer:
        clean["role"] = "system"
    if "content" in clean:
        clean["content"] = _content(clean["content"], f"{where}.content", parts and role != "tool")
        if wrap and isinstance(clean["content"], str):
            clean["content"] = [{"type": "text", "text": clean["content"]}]
    if "tool_calls" in clean:
        clean["tool_calls"] = _tool_calls(clean["tool_calls"], f"{where}.tool_calls")
    reasoning = next((clean[key] for key in _REASONING if key in clean), None)
    if reasoning is not None:
        clean = {"thinking": reasoning, **clean, "reasoning_content": reasoning}
    return clean


def _content(content: Any, where: str, parts: bool) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _error("invalid_type", f"{where} must be a string, null or a list of parts, not {type(content).__name__}")
    texts = [_part_text(part, f"{where}[{i}]") for i, part in enumerate(content)]
    return [{"type": "text", "text": text} for text in texts] if parts else "\n".join(texts)


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise _error("invalid_type", f"{where} must be an object or a string, not {type(part).__name__}")
    kind = part.get("type", "text" if "text" in part else next(iter(part), ""))
    if not isinstance(kind, str):
        raise _error("invalid_type", f"{where}.type must be a string, not {type(kind).__name__}")
    key = _TEXT_KEY.get(kind)
    if key is None:
        medium = next((m for m in _MEDIA if m in kind), None)
        if medium is not None:
            raise _error("unsupported", f"{where}: content of type {kind!r} is not supported yet; only text is")
        raise _error("invalid_value", f"{where}: unknown type of content {kind!r}; known: {', '.join(_TEXT_KEY)}")
    if key not in part:
        raise _error("missing_field", f"{where} has no {key}")
    if not isinstance(part[key], str):
        raise _error("invalid_type", f"{where}.{key} must be a string, not {type(part[key]).__name__}")
    return part[key]


def _tool_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Copies whose arguments are objects: OpenAI's clients send them as JSON text, templates want to write them themselves."""
    if not isinstance(calls, list):
        raise _error("invalid_type", f"{where} must be a list, not {type(calls).__name__}")
    return [_tool_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def _tool_call(call: Any, where: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise _error("invalid_type", f"{where} must be an object, not {type(call).__name__}")
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    return {**call, "function": {**function, "arguments": _arguments(function["arguments"], f"{where}.function.arguments")}}


def _arguments(text: str, where: str) -> Any:
    if not text.strip():
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise _error("invalid_value", f"{where} is not valid JSON: {e}") from e


def _error(code: str, message: str) -> RecordError:
    return RecordError(code, message, param="messages")
