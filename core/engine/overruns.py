"""Overruns: ended sequences that keep their blocks because a step in flight still writes to them.

Only where steps overlap; see overlap.py. Knows sequences and blocks, never tensors or text.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Set as AbstractSet

from ..types.request import Sequence
from .blocks import BlockManager
from .running import Running


class Overruns:
    def __init__(self, running: Running, blocks: BlockManager) -> None:
        self._running = running
        self._blocks = blocks
        self._begun: Collection[Sequence] = ()
        self._in_flight: frozenset[Sequence] | None = None
        self.apart: set[Sequence] = set()
        """Sequences that hold blocks and do not run any more: of `in_flight`, or `Promise.leaving`."""

    @property
    def in_flight(self) -> frozenset[Sequence]:
        """Sequences of a step that was begun before the one before it was done: what it writes to is not given away."""
        if self._in_flight is None:  # in most steps nobody asks
            self._in_flight = frozenset(self._begun)
        return self._in_flight

    def fly(self, sequences: Collection[Sequence] = ()) -> None:
        """These are the ones in flight now, a collection that stays as it is."""
        self._begun, self._in_flight = sequences, None

    def set_apart(self, sequences: AbstractSet[Sequence]) -> None:
        """Takes sequences out of the running that keep their blocks for now."""
        if sequences:
            self.apart |= sequences
            self._running.remove(sequences)

    def keep(self, ended: set[Sequence]) -> set[Sequence]:
        """Sets those of the step in flight apart; the others, which nobody writes to."""
        if not ended:
            return ended
        self.set_apart(ended & self.in_flight)
        self.apart -= ended - self.in_flight
        return ended - self.in_flight

    def free(self, but: AbstractSet[Sequence] = frozenset()) -> None:
        """Frees the blocks of those set apart, `but` some."""
        for sequence in self.apart - but:
            self._blocks.free(sequence)
        self.apart &= but

    def check_integrity(self) -> None:
        """Proves that none of them runs or outlives the step that it waits for. For tests."""
        assert self.apart <= self.in_flight
        assert not self.apart & {*self._running}
