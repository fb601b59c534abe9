"""Calls of OLMo 3: Python calls, one a line, between <function_calls> and </function_calls>, as its chat template asks for. Literals may be
JSON's too."""

from __future__ import annotations

from ..json_spans import MOST_MISSES, after_space
from .parser import ToolCallParser
from .pythonic import calls_by_line
from .tool_call import Parts, ToolCall

_OPEN, _CLOSE = "<function_calls>", "</function_calls>"


def _olmo3(text: str) -> Parts:
    done = at = misses = 0
    while misses < MOST_MISSES and (opening := text.find(_OPEN, at)) >= 0:
        at = opening + len(_OPEN)
        items, end = calls_by_line(text, after_space(text, at), _CLOSE)
        if not any(isinstance(item, ToolCall) for item in items):
            misses += 1
            continue
        yield text[done:opening]
        yield from items
        done = at = end
    yield text[done:]


PARSER = ToolCallParser(_olmo3, (_OPEN, _CLOSE))
