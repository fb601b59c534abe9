"""Stop strings, found while the text is still coming. Knows text only, never tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Finds the stop string that is completed first.

    Of several strings the one whose last character comes first in the text wins; of those that end at the same character the
    one that begins first (the longest). So the result depends on the text alone, never on how it was cut into pieces.

    Args:
        stops: non-empty strings; may be none at all.
    """

    __slots__ = ("_keep", "_length", "_stops", "_tail")

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "SamplingParams refuses empty stop strings"
        self._stops = tuple(stops)
        self._keep = max(map(len, stops), default=1) - 1  # a match may begin this many characters before the new text
        self._tail = ""
        self._length = 0

    def push(self, new_text: str) -> tuple[int, str] | None:
        """Takes the next piece of text; O(its length) per stop string.

        Returns (offset, stop): where in the total text the match begins, in characters, and the string; None without a
        match. The text is cut at `offset`, or at `offset + len(stop)` to keep the string.
        """
        if not new_text:
            return None
        tail = len(self._tail)
        text = self._tail + new_text
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            begin = text.find(stop, max(0, tail - len(stop) + 1))  # only matches that end in the new text
            if begin >= 0 and (best is None or (begin + len(stop), begin) < best[:2]):
                best = (begin + len(stop), begin, stop)
        before = self._length - tail
        self._length += len(new_text)
        self._tail = text[len(text) - self._keep :] if self._keep < len(text) else text
        return None if best is None else (before + best[1], best[2])

    def skip(self, new_text: str) -> None:
        """Takes a piece in which no match may end (before `min_tokens`); a later match may still begin in it."""
        text = self._tail + new_text
        self._length += len(new_text)
        self._tail = text[len(text) - self._keep :] if self._keep < len(text) else text
