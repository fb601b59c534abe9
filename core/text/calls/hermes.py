"""Calls of Hermes and Qwen 2.5 and 3: JSON objects between <tool_call> tags, as their chat templates write them."""

from __future__ import annotations

import re

from ..json_spans import MOST_MISSES, after_broken, after_space, value_at
from .parser import ToolCallParser
from .tool_call import NO_CALL, Parts, from_object

OPEN, CLOSE = "<tool_call>", "</tool_call>"
#: The end of a call and the beginning of the next.
_BETWEEN = re.compile(r"</tool_call>\s*(?=<tool_call>)")


def hermes(text: str) -> Parts:
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number of them; the last need not be closed (Qwen, Hermes)."""
    done = at = misses = 0
    while misses < MOST_MISSES and (opening := text.find(OPEN, at)) >= 0:
        start = at = after_space(text, opening + len(OPEN))
        try:
            value, at = value_at(text, start)
            call = from_object(value)
        except NO_CALL as error:
            if at == start and text.startswith(("{", "["), start):
                at = after_broken(text, start, error)
                between = _BETWEEN.search(text, start, at)  # brackets that do not match must not take the next call with them
                at = between.end() if between else at
            misses += 1
            continue
        end = after_space(text, at)
        if text.startswith(CLOSE, end):
            at = end + len(CLOSE)
        elif end < len(text) and not text.startswith(OPEN, end):
            continue
        yield text[done:opening]
        yield call
        done = at
    yield text[done:]


PARSER = ToolCallParser(hermes, (OPEN, CLOSE))
