"""The output of a forced choice: the JSON of calls and nothing else."""

from __future__ import annotations

from ..json_spans import after_space, loads
from .json_list import list_at
from .parser import Reply, ToolCallParser
from .tool_call import NO_CALL, Parts, from_object


def parse_forced(text: str, name: str | None) -> Reply:
    """The calls in the output of a forced choice: `name`'s arguments, or (None) a list of {name, parameters}.

    What of an output was cut off, and so is not JSON, is content.
    """
    if name is None:
        return _FORCED.parse(text)
    try:
        return Reply(None, (from_object({"name": name, "arguments": loads(text)}),))
    except NO_CALL:
        return Reply(text)


def _forced(text: str) -> Parts:
    """A JSON list of calls and nothing else; an output that was cut off ends in the midst of it."""
    start = after_space(text, 0)
    items, end = list_at(text, start) if text.startswith("[", start) else ([], 0)
    yield from items
    yield text[end:]


_FORCED = ToolCallParser(_forced)
