"""Calls of Mistral's models: [TOOL_CALLS] and a JSON list, or a name and its arguments, as the versions of their tokenizers write them."""

from __future__ import annotations

import re

from ..json_spans import MOST_MISSES, after_broken, after_space, value_at
from .json_list import list_at
from .parser import ToolCallParser
from .tool_call import Parts, ToolCall, call_or, from_object, made

_MISTRAL = "[TOOL_CALLS]"
_MISTRAL_NAME = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\][\w-]*)?(?:\[ARGS\])?\s*(?=\{)")


def _mistral(text: str) -> Parts:
    """`[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, or `[TOOL_CALLS]name{…}` and `[TOOL_CALLS]name[ARGS]{…}`, repeated."""
    done = at = misses = 0
    while misses < MOST_MISSES and (marker := text.find(_MISTRAL, at)) >= 0:
        at = marker + len(_MISTRAL)
        items, end = _mistral_items(text, after_space(text, at))
        if not any(isinstance(item, ToolCall) for item in items):
            misses += 1
            continue
        yield text[done:marker]
        yield from items
        done = at = end
    yield text[done:]


def _mistral_items(text: str, start: int) -> tuple[list[str | ToolCall], int]:
    """The calls and texts behind a marker, and the place where they end."""
    if text.startswith("[", start):
        return list_at(text, start)
    items: list[str | ToolCall] = []
    at = start
    while True:
        match = None if text.startswith("{", at) else _MISTRAL_NAME.match(text, at)
        begins = match.end() if match is not None else at
        if not text.startswith("{", begins):
            return items, at
        try:
            value, end = value_at(text, begins)
        except (ValueError, RecursionError) as error:
            end = after_broken(text, begins, error)
            if text[end - 1] != "}":
                return items, at
            value = None
        if match is None:
            items.append(call_or(text[at:end], from_object, value))
        else:
            items.append(call_or(text[at:end], made, match.group(1), value))
        at = end
        if match is None:
            return items, at


PARSER = ToolCallParser(_mistral, (_MISTRAL, "[ARGS]", "[CALL_ID]"), short_ids=True)
