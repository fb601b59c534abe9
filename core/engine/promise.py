"""A step that is booked before its tokens are known, so that the next one can be scheduled while it is computed.

                          tokens of a sequence              num_computed
    begun                 [ p p p p a b ]                   5
    promised              [ p p p p a b -3 ]                6        -1 - i for the i-th token that the step draws
    kept                  [ p p p p a b c ]                 6

Whatever reads tokens between the two meets lengths that are right, and no token of this kind: sequences that wait have none, and
`may_go_ahead` (overlap.py) sees to the rest. Full blocks become findable when the promise is kept, not before: what is found in
the prefix cache comes from steps that went well.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..types.request import Sequence
from .schedule import Schedule
from .scheduler import Scheduler


class Promise:
    """
    Args:
        drawing: the sequences that sample in `step`, which was begun.
        rows: which of the step's draws are theirs.
    """

    def __init__(self, scheduler: Scheduler, step: Schedule, drawing: SequenceOf[Sequence], rows: NDArray[np.intp]) -> None:
        self._scheduler = scheduler
        self._step = step
        self._drawing = drawing
        self._rows = rows
        self._filled = scheduler.progress.advance(step)
        leaving = frozenset(scheduler.running.extend(step.samples.nonzero()[0], -1 - rows))
        scheduler.join(step)
        assert scheduler.overruns is not None
        scheduler.overruns.set_apart(leaving)
        self.leaving = leaving
        """Those that this step ends at the latest: they have no part in the next."""

    def keep(self, tokens: NDArray[np.int64]) -> None:
        """Puts the tokens where they were promised.

        Args:
            tokens: all that the step drew, also those that nobody wants.
        """
        running = self._scheduler.running
        newest = running.newest[: len(running)]
        (places,) = (newest < 0).nonzero()
        newest[places] = tokens[-1 - newest[places]]
        for sequence, token in zip(self._drawing, tokens[self._rows].tolist(), strict=True):
            sequence.tokens[-1] = token
        self._scheduler.progress.succeeded(self._step, self._filled)


def schedule_ahead(scheduler: Scheduler) -> Schedule | None:
    """The next step while one that is promised is computed; None where that has to be waited for: no sequence is preempted for
    it, as one that ends now may leave its blocks to it, nor is there a step without anything to compute."""
    running, blocks, counts = scheduler.running, scheduler.blocks, scheduler.share_out_budget()
    # A block for each sequence, and what its tokens fill: seldom are so few free that it has to be known.
    if blocks.num_free < len(counts) + scheduler.max_num_batched_tokens // blocks.block_size:
        ends = running.computed[: len(counts)] + counts
        missing = -(-ends // blocks.block_size) - running.num_blocks[: len(counts)]
        if int(np.maximum(missing, 0).sum()) > blocks.num_free:
            return None
    schedule = scheduler.schedule(counts)
    return schedule if schedule.sequences else None


def without(step: Schedule, gone: Collection[Sequence]) -> Schedule:
    """A step's schedule with some of its sequences left out, which are no longer running."""
    left = [row for row, sequence in enumerate(step.sequences) if sequence not in gone]
    return replace(
        step,
        sequences=[step.sequences[row] for row in left],
        counts=step.counts[left],
        samples=step.samples[left],
        traits=step.traits[left],
        admitted=[sequence for sequence in step.admitted if sequence not in gone],
        drafts={},  # they are computed; `Step` knows whose they are
    )
