"""Chat messages as they arrive, checked and brought into the shape that templates expect.

Plain data in, plain data out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..errors import RecordError
from ..types.media import MediaKind
from ..types.media_parts import kind_of

#: Why media are refused.
TEXT_ALONE = "the model reads text alone"
_TEXT_KEY = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_MEDIA = ("audio", "file", "image", "video", "prompt_embeds")
#: Where some APIs put media beside a message's content.
_MEDIA_KEYS = ("images", "audio", "videos")
#: Names a message's reasoning comes under; templates read one of the first two.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def prepare(
    messages: Any,
    *,
    parts: bool,
    wrap: bool,
    developer: bool,
    text_arguments: bool = False,
    placeholder: Callable[[MediaKind], str] | None = None,
) -> list[dict[str, Any]]:
    """Checked copies of the messages, ready for a template.

    Content that is null, or that an assistant's message lacks (OpenAI's form of one that only calls functions), is empty, as in
    vLLM: many templates add it to other text.

    Args:
        messages: a record's `messages`, of any type.
        parts: the template takes content as a list of parts; else text parts are joined by newlines.
        wrap: the template takes nothing but lists: a string becomes a list of one text part.
        developer: the template knows the role "developer"; else it becomes "system".
        text_arguments: the template takes the arguments of calls as the text of JSON; else as objects.
        placeholder: the text that stands for a medium of a kind, where the template does not write it; None: the model reads text alone.

    Raises RecordError (invalid_type, missing_field, invalid_value, unsupported), param "messages".
    """
    if not isinstance(messages, list):
        raise _error("invalid_type", f"messages must be a list, not {type(messages).__name__}")
    if not messages:
        raise _error("invalid_value", "messages is empty; give at least one message")
    prepared = []
    for i, message in enumerate(messages):
        clean = _message(message, where := f"messages[{i}]", parts, wrap, developer, placeholder)
        if "tool_calls" in clean:
            clean["tool_calls"] = _tool_calls(clean["tool_calls"], f"{where}.tool_calls", as_text=text_arguments)
        prepared.append(clean)
    return prepared


def _message(
    message: Any, where: str, parts: bool, wrap: bool, developer: bool, placeholder: Callable[[MediaKind], str] | None
) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise _error("invalid_type", f"{where} must be an object, not {type(message).__name__}")
    if "role" not in message:
        raise _error("missing_field", f"{where} has no role")
    role = message["role"]
    if not isinstance(role, str):
        raise _error("invalid_type", f"{where}.role must be a string, not {type(role).__name__}")
    if "content" not in message and role != "assistant":
        raise _error("missing_field", f"{where} has no content")
    # Another null is left out: many templates would write "None", and all of them know a missing key.
    clean = {"role": role, "content": None, **message}
    clean = {key: value for key, value in clean.items() if value is not None or key == "content"}
    for medium in _MEDIA_KEYS:
        if clean.get(medium):
            raise _error("unsupported", f"{where}.{medium} is not supported: media are parts of a message's content")
    if clean.get("tool_calls") == []:
        del clean["tool_calls"]  # as if it were not there: some templates ask no more than that
    if role == "developer" and not developer:
        clean["role"] = "system"
    if clean["content"] is None:
        clean["content"] = [] if wrap else ""
    else:
        clean["content"] = _content(clean["content"], f"{where}.content", parts and role != "tool", placeholder)
        if wrap and isinstance(clean["content"], str):
            clean["content"] = [{"type": "text", "text": clean["content"]}]
    reasoning = next((clean[key] for key in _REASONING if key in clean), None)
    if reasoning is not None:
        clean = {"thinking": reasoning, **clean, "reasoning_content": reasoning}
    return clean


def _content(content: Any, where: str, parts: bool, placeholder: Callable[[MediaKind], str] | None) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _error("invalid_type", f"{where} must be a string, null or a list of parts, not {type(content).__name__}")
    found: list[dict[str, Any]] = []
    for i, part in enumerate(content):
        if placeholder is not None and isinstance(part, dict) and (medium := kind_of(part)) is not None:
            found.append({"type": medium} if parts else {"text": placeholder(medium)})
        else:
            found.append({"type": "text", "text": _part_text(part, f"{where}[{i}]")})
    return found if parts else "\n".join(one["text"] for one in found)


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
            raise _error("unsupported", f"{where}: content of type {kind!r} is not supported: {TEXT_ALONE}")
        raise _error("invalid_value", f"{where}: unknown type of content {kind!r}; known: {', '.join(_TEXT_KEY)}")
    if key not in part:
        raise _error("missing_field", f"{where} has no {key}")
    if not isinstance(part[key], str):
        raise _error("invalid_type", f"{where}.{key} must be a string, not {type(part[key]).__name__}")
    return part[key]


def _tool_calls(calls: Any, where: str, *, as_text: bool) -> list[dict[str, Any]]:
    """Copies whose arguments are objects, as templates want to write them themselves; OpenAI's clients send them as JSON text."""
    if not isinstance(calls, list):
        raise _error("invalid_type", f"{where} must be a list, not {type(calls).__name__}")
    return [_tool_call(call, f"{where}[{i}]", as_text=as_text) for i, call in enumerate(calls)]


def _tool_call(call: Any, where: str, *, as_text: bool) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise _error("invalid_type", f"{where} must be an object, not {type(call).__name__}")
    function = call.get("function")
    if not isinstance(function, dict):
        return call
    arguments = function.get("arguments")
    value = _arguments(arguments, f"{where}.function.arguments")
    if as_text:
        value = arguments if isinstance(arguments, str) and arguments.strip() else json.dumps(value, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": value}}


def _arguments(given: Any, where: str) -> Any:
    if given is None:
        return {}
    if not isinstance(given, str):
        return given
    if not given.strip():
        return {}
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as e:
        raise _error("invalid_value", f"{where} is not valid JSON: {e}") from e


def _error(code: str, message: str) -> RecordError:
    return RecordError(code, message, param="messages")
