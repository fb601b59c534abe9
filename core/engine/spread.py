"""Spread of known work: the number of sequences at a time that keeps all steps up to the last equally full."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain

from ..types.request import Sequence
from .queues.priorities import PriorityQueues
from .queues.waiting import WaitingQueue, expected_output

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
        self.expects_more = True
        self._found = (0, most)  # sequences left when it was worked out, and the result

    def expect_more(self, more: bool) -> None:
        """Says whether there may be other work than there is."""
        self.expects_more = more
        if more:
            self._found = (0, self._most)

    def width(
        self, running: Collection[Sequence], waiting: WaitingQueue | PriorityQueues, siblings: Mapping[Sequence, list[Sequence]]
    ) -> int:
        """Sequences at a time, of all that are left; they are looked at where there are not as many as before."""
        if self.expects_more or not waiting:
            return self._most
        num_left = len(running) + len(waiting)
        if self._found[0] != num_left:
            sequences = chain(running, waiting, *siblings.values())
            left = [max(1, expected_output(s) - s.num_output) for s in sequences]
            even = -(-sum(left) // max(left))
            self._found = num_left, min(self._most, -(-even // _FEW) * _FEW)
        return self._found[1]
