"""Calls in JSON behind a marker, the form of most models: the marker differs, what ends a call, and whether the name stands there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..json_spans import MOST_MISSES, after_broken, after_space, value_at
from .json_list import list_at
from .tool_call import NO_CALL, Parts, ToolCall, from_object, made


@dataclass(frozen=True)
class Marked:
    """Takes such a text apart.

    Args:
        opening: what stands before the JSON. A group `name` is the function's, and the JSON its arguments; without one it is an object
            with both, or a list of them.
        closing: what has to stand behind it, where the text goes on; it may match nothing.
    """

    opening: re.Pattern[str]
    closing: re.Pattern[str]

    def __call__(self, text: str) -> Parts:
        done = at = misses = 0
        while misses < MOST_MISSES and (match := self.opening.search(text, at)):
            start = at = after_space(text, match.end())
            try:
                items, at = self._items(text, start, match.groupdict().get("name"))
                closing = self.closing.match(text, at)
                if closing is None and after_space(text, at) < len(text):
                    raise ValueError
            except NO_CALL as error:
                if at == start and text.startswith(("{", "["), start):
                    at = after_broken(text, start, error)
                misses += 1
                continue
            yield text[done : match.start()]
            yield from items
            done = at = closing.end() if closing is not None else len(text)
        yield text[done:]

    def _items(self, text: str, start: int, name: str | None) -> tuple[list[str | ToolCall], int]:
        """The calls that begin at `start`, with what is none among them, and where they end. Raises NO_CALL."""
        if name is None and text.startswith("[", start):
            listed, end = list_at(text, start)
            if not any(isinstance(item, ToolCall) for item in listed):
                raise ValueError
            return listed, end
        value, end = value_at(text, start)
        items: list[str | ToolCall] = [from_object(value) if name is None else made(name.strip(), value)]
        while name is None and text.startswith("{", after_space(text, end)):  # one after the other, as MiniMax-M1 writes them
            value, end = value_at(text, after_space(text, end))
            items.append(from_object(value))
        return items, end
