"""Drafts from a sequence's own text: what came after the same tokens before.

The text (prompt and output) is indexed by its grams of `shortest` tokens as it grows. The places where the newest gram stood before
are looked at, latest first; the one with the longest common past is copied from. A copy that reaches the end of the text goes on with
itself, so that what goes round in circles is drafted as long as is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...types.request import Sequence
from .drafter import Draft

#: Places that are looked at for one draft: a gram that stood nearly everywhere tells little.
_MOST_PLACES = 32


class Text:
    """The index of one sequence's tokens, which are only ever added to.

    Args:
        shortest, longest: tokens of the past that must be equal for a draft, and that are compared at most.
    """

    __slots__ = ("_before", "_last", "_longest", "_shortest", "_size")

    def __init__(self, shortest: int, longest: int) -> None:
        self._shortest, self._longest = shortest, longest
        self._size = 0
        self._last: dict[tuple[int, ...], int] = {}
        """Gram -> the place behind its last occurrence."""
        self._before = [0] * shortest
        """Place behind a gram -> the place behind the occurrence before; 0: there is none."""

    def follow(self, tokens: list[int]) -> int:
        """Takes the tokens that are new; returns the place behind the latest earlier occurrence of the newest gram, or 0."""
        shortest, last, before = self._shortest, self._last, self._before
        for end in range(max(self._size + 1, shortest), len(tokens) + 1):
            gram = tuple(tokens[end - shortest : end])
            before.append(last.get(gram, 0))
            last[gram] = end
        self._size = len(tokens)
        return before[-1] if len(before) == self._size + 1 else 0

    def draft(self, tokens: list[int], most: int) -> Draft:
        """At most `most` tokens that may come next; at least `shortest` before them are as they were."""
        place = self.follow(tokens)
        if not place or most <= 0:
            return Draft()
        size, shortest, longest = len(tokens), self._shortest, self._longest
        best, best_length = 0, 0
        for _ in range(_MOST_PLACES):
            length = shortest
            most_length = min(longest, place)
            while length < most_length and tokens[place - 1 - length] == tokens[size - 1 - length]:
                length += 1
            if length > best_length:
                best, best_length = place, length
                if length >= longest:
                    break
            place = self._before[place]
            if not place:
                break
        found = tokens[best : best + most]
        while len(found) < most:
            found += found[: most - len(found)]
        return Draft(found, best_length)


class OwnText:
    """
    Args:
        shortest, longest: see `Text`.
    """

    def __init__(self, shortest: int, longest: int) -> None:
        self._shortest, self._longest = shortest, max(shortest, longest)
        self._texts: dict[Sequence, Text] = {}

    def draft(self, wanted: list[tuple[Sequence, int]]) -> list[Draft]:
        """See `Drafter`."""
        return [self.text_of(sequence).draft(sequence.tokens, most) for sequence, most in wanted]

    def text_of(self, sequence: Sequence) -> Text:
        """The index of a sequence; an empty one where it is new."""
        text = self._texts.get(sequence)
        if text is None:
            text = self._texts[sequence] = Text(self._shortest, self._longest)
        return text

    def keep(self, sequences: Iterable[Sequence]) -> None:
        """See `Drafter`."""
        self._texts = {sequence: self._texts[sequence] for sequence in sequences if sequence in self._texts}
