"""JSON inside other text: where a value ends, and where a broken one does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

#: Values that are no JSON before a text is taken for something else: each costs a look at all that follows.
MOST_MISSES = 256

_SPACE = re.compile(r"\s*")
_OPENING = re.compile(r"[\[{]")
#: A string, to the end of the text if it has none, or a bracket.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
#: A list, or an object by its first key, in JSON or in a language near it.
_STRUCTURE = re.compile(r"\[|\{\s*(?:[\"']|[^\W\d]\w*\s*:)")
_QUOTES = frozenset("\"'`")


class ConstantError(ValueError):
    """NaN or Infinity, which are not JSON."""


def _refuse_constant(name: str) -> Any:
    raise ConstantError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def loads(text: str) -> Any:
    """The value that a text is. Raises ValueError, RecursionError."""
    return _DECODER.decode(text)


def value_at(text: str, start: int) -> tuple[Any, int]:
    """The value that begins at a place, and where it ends. Raises ValueError, RecursionError."""
    return _DECODER.raw_decode(text, start)


def after_space(text: str, start: int) -> int:
    """The first place from `start` on that is no white space."""
    match = _SPACE.match(text, start)
    assert match is not None
    return match.end()


def closing(text: str, start: int) -> int | None:
    """The end of the brackets that open at `start`, strings aside; None if they never close."""
    depth = 0
    for match in _TOKEN.finditer(text, start):
        if match.group() in "[{":
            depth += 1
        elif match.group() in "]}":
            depth -= 1
            if depth == 0:
                return match.end()
    return None


def after_broken(text: str, start: int, error: Exception) -> int:
    """The place to go on from after what begins at `start` turned out to be no JSON.

    What began like an object or a list is passed over whole, so that nothing inside it is taken for something of its own.
    """
    if not _STRUCTURE.match(text, start):  # a bracket in prose
        return start + 1
    end = closing(text, start)
    if end is not None:
        return end
    return max(start + 1, error.pos) if isinstance(error, json.JSONDecodeError) else len(text)


def outside(text: str, delimiter: str) -> Iterator[int]:
    """The places of a delimiter, but those inside of JSON objects and lists and those where it is only quoted."""
    at = scanned = misses = 0
    while (place := text.find(delimiter, at)) >= 0:
        at = place + len(delimiter)
        while scanned < place and misses < MOST_MISSES:
            opening = _OPENING.search(text, scanned, place)
            if opening is None:
                scanned = place
                break
            try:
                _, scanned = value_at(text, opening.start())
            except (ValueError, RecursionError):
                scanned = opening.end()
                misses += 1
        if scanned > place:
            at = scanned
        elif not _is_quoted(text, place, at):
            yield place


def _is_quoted(text: str, start: int, end: int) -> bool:
    """True if a stretch stands in quotation marks of its own, of which the first can only open."""
    quote = text[start - 1 : start]
    if quote not in _QUOTES or text[end : end + 1] != quote:
        return False
    before = text[start - 2 : start - 1] if start > 1 else ""
    return not before or before.isspace() or before in "([{:=,"
