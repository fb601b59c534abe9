"""How many sequences run at a time when no more will come: as many as keep all steps up to the last equally full."""

from __future__ import annotations

from collections.abc import Iterable

from ..types.request import Sequence
from .waiting import expected_output

#: A step with so many sequences takes about as long as with one: it reads all weights, and rows are padded.
_FEW = 16


class Spread:
    """
    If the longest output takes 500 steps and all of them together are 30,000 tokens, 60 at a time are done as early as 256 would
    be, without leaving the longest alone in hundreds of steps that are no cheaper for it.

    Args:
        most: sequences running at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._found = (0, most)  # sequences left when it was worked out, and the result

    def forget(self) -> None:
        """There is other work than before."""
        self._found = (0, self._most)

    def width(self, num_left: int, sequences: Iterable[Sequence]) -> int:
        """Sequences at a time, of `sequences` that are left; they are looked at where `num_left` is not what it was."""
        if self._found[0] != num_left:
            left = [max(1, expected_output(s) - s.num_output) for s in sequences]
            even = -(-sum(left) // max(left))
            self._found = num_left, min(self._most, -(-even // _FEW) * _FEW)
        return self._found[1]
