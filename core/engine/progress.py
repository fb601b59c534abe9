"""Progress: the books of what a step has computed and drawn.

    a step is done      its tokens count as computed (`advance`), drawn ones come behind them, full blocks can be found (`succeeded`)
    a draft came true   what was computed of it belongs to the sequence now (`accept`)

Knows lengths and blocks, never tensors of a model or text.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from ..memory.swap import SwapSpace
from ..types.request import Sequence
from .blocks import BlockManager
from .running import Running
from .schedule import Schedule


class Progress:
    """
    Args:
        running, blocks, swap: the scheduler's.
    """

    def __init__(self, running: Running, blocks: BlockManager, swap: SwapSpace | None) -> None:
        self._running = running
        self._blocks = blocks
        self._swap = swap

    def advance(self, step: Schedule) -> list[tuple[Sequence, int]]:
        """Counts a step's tokens as computed, and keeps states where that is due; gives what `Running.advance` does."""
        running, blocks = self._running, self._blocks
        filled = running.advance(step.counts, blocks.block_size)
        if blocks.states is not None:
            for row in running.at_border(len(step.counts)):
                blocks.keep_states(running[row])
                running.refresh_border(row)
        return filled

    def succeeded(self, step: Schedule, filled: Iterable[tuple[Sequence, int]]) -> None:
        """A step is done: what `Running.advance` said it filled is findable from now on."""
        for sequence, before in filled:
            self._blocks.remember(sequence, before)
        if self._swap is not None:
            self._swap.costs.computed(int(step.counts.sum()), step.began)

    def accept(self, rows: SequenceOf[int], tokens: NDArray[np.int64]) -> list[Sequence]:
        """Books one token more for some rows of the step that was committed last, drawn after a draft that came true. Returns those of
        them that are as long as they may be."""
        counts = np.zeros(max(rows) + 1, dtype=np.int64)
        counts[rows] = 1
        filled = self._running.advance(counts, self._blocks.block_size)
        full = self._running.extend(np.array(rows, dtype=np.intp), tokens)
        for sequence, before in filled:
            self._blocks.remember(sequence, before)
        return full
