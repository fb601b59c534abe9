"""Holds: the blocks of prompts whose own sequence has ended, kept until the continuations that start from them have.

A hold is given up where blocks are short: what was to start from it then computes the prompt again, or finds it in the prefix cache.
Knows sequences and blocks, never tensors or text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ...types.request import Request, Sequence
from ..blocks import BlockManager


class Holds:
    def __init__(self, blocks: BlockManager) -> None:
        self._blocks = blocks
        self._waiting: dict[Sequence, set[Sequence]] = {}
        """Holds, and those that are to start from each."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def take(self, prompt: Sequence, others: Collection[Sequence]) -> Sequence:
        """Holds the blocks of `prompt` for `others`; the source that they are to start from."""
        hold = prompt.fork()
        self._blocks.fork(prompt, hold)
        self._waiting[hold] = set(others)
        return hold

    def started(self, sequence: Sequence) -> None:
        """A sequence has its blocks. The last that a hold is for ends it."""
        source = sequence.source
        if source is None or (waiting := self._waiting.get(source)) is None:
            return
        waiting.discard(sequence)
        if not waiting:
            self._give_up(source)

    def drop(self, request: Request) -> None:
        """Ends the hold of a request that is answered or dropped."""
        for hold in [hold for hold in self._waiting if hold.request is request]:
            self._give_up(hold)

    def give_up(self) -> bool:
        """Ends all holds; False if there are none."""
        if not self._waiting:
            return False
        for hold in [*self._waiting]:
            self._give_up(hold)
        return True

    def _give_up(self, hold: Sequence) -> None:
        del self._waiting[hold]
        self._blocks.free(hold)
