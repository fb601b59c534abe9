"""Tool call: a function's name and arguments, made of what a model wrote, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..json_spans import loads

#: What parsing raises: JSON's and Python's errors, and ours.
NO_CALL = (ValueError, RecursionError, MemoryError, SyntaxError)


@dataclass(frozen=True)
class ToolCall:
    """One call: the function's name, and its arguments as the text of a JSON object."""

    name: str
    arguments: str

    def to_json(self, id: str) -> dict[str, Any]:
        """An entry of OpenAI's `tool_calls`."""
        return {"id": id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


class NotACallError(ValueError):
    """The text is not what it was parsed as."""


#: What a text is made of: calls, and text that is none.
Parts = Iterator["str | ToolCall"]


def from_object(value: Any) -> ToolCall:
    """A call from the object that is one: a name, and `arguments` or `parameters`, an object or the text of one."""
    if not isinstance(value, dict):
        raise NotACallError
    return made(value.get("name"), value["arguments"] if "arguments" in value else value.get("parameters"))


def made(name: Any, arguments: Any) -> ToolCall:
    """The call of a function by name; arguments are an object, or the text of one."""
    if isinstance(arguments, str):
        arguments = loads(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise NotACallError
    name.encode()  # half a surrogate pair, escaped, cannot be written: a UnicodeEncodeError is a ValueError
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(arguments, allow_nan=False)
    return ToolCall(name, text)


def call_or(text: str, make: Callable[..., ToolCall], *given: Any, **more: Any) -> str | ToolCall:
    """The call that is made of what is given, or the text that it was read from."""
    try:
        return make(*given, **more)
    except NO_CALL:
        return text
