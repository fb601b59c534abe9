"""Calls of Llama 3.1 and later: bare JSON objects with `name` and `parameters`, perhaps behind <|python_tag|>."""

from __future__ import annotations

from ..json_spans import MOST_MISSES, after_broken, value_at
from .parser import ToolCallParser
from .tool_call import NO_CALL, Parts, from_object

_PYTHON_TAG = "<|python_tag|>"


def _llama3_json(text: str) -> Parts:
    """JSON objects with `name` and `parameters`, wherever they stand; they may be items of a list, or have semicolons between them."""
    done = at = misses = 0
    while misses < MOST_MISSES and (start := text.find("{", at)) >= 0:
        try:
            value, at = value_at(text, start)
        except (ValueError, RecursionError) as error:
            at = after_broken(text, start, error)
            misses += 1
            continue
        try:
            call = from_object(value)
        except NO_CALL:
            continue
        yield text[done:start]
        yield call
        done = at
    yield text[done:]


PARSER = ToolCallParser(_llama3_json, (_PYTHON_TAG,), separators=";,[]", dropped=(_PYTHON_TAG,))
