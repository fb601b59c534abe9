"""A JSON list of calls: one broken item does not take the others with it."""

from __future__ import annotations

from ..json_spans import after_broken, after_space, value_at
from .tool_call import ToolCall, call_or, from_object


def list_at(text: str, start: int) -> tuple[list[str | ToolCall], int]:
    """The items of the JSON list that begins at `start`, and where it ends or cannot be read any further."""
    items: list[str | ToolCall] = []
    at = after_space(text, start + 1)
    while at < len(text) and text[at] != "]":
        try:
            value, end = value_at(text, at)
        except (ValueError, RecursionError) as error:
            end = after_broken(text, at, error)
            if text[at] not in "[{" or text[end - 1] not in "]}":
                return items, at
            value = None
        items.append(call_or(text[at:end], from_object, value))
        at = after_space(text, end)
        if text[at : at + 1] == ",":
            at = after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            return items, at
    return items, min(at + 1, len(text))
