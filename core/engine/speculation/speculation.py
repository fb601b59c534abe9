"""Speculation: which sequences of a step carry drafts, and how many.

    known and computed next      drafts
    [ t ]                        [ d1 d2 d3 ]         rows of one sequence in a step
      |                            |  |  |
      draws d1                     draws d2
                                      draws x         d3 did not come true: x is right, and what comes after it is not looked at

Each row draws with the noise of its own position and from the distribution that the tokens before it make, so what is drawn is what
would be without drafts. Keys and values of a draft that did not come true are behind the end of what is computed of the sequence:
nobody reads them, and the next step writes there.

Drafts take the room that a step leaves: of its tokens, and of the blocks that nobody holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

import numpy as np

from ...types.request import Sequence
from ..batch import padded_rows
from ..overlap import Step
from ..schedule import Schedule
from ..scheduler import Scheduler
from .drafter import Draft, Drafter
from .odds import Odds, Price

#: Sequences that draw in a step beyond which no draft pays: its rows are as dear as theirs.
_FEW = 32


class Speculation:
    """
    Args:
        most: drafts of a sequence in a step.
        thrifty: only as many as are worth their rows, by what was seen of steps and drafts before; else as many as there are.
        padded: rows of a step are filled up to a multiple of ROW_MULTIPLE, so that those are free.
        clock: seconds.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        drafter: Drafter,
        most: int,
        *,
        thrifty: bool,
        padded: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.drafter = drafter
        self._scheduler = scheduler
        self._most = most
        self._thrifty = thrifty
        self._padded = padded
        self._clock = clock
        self._odds, self._price = Odds(), Price()
        self._guessed: dict[Sequence, tuple[int, Draft]] = {}
        """For each sequence its length in tokens when it was last given a draft, and this draft."""
        self._began = 0.0

    def add_drafts(self, schedule: Schedule) -> None:
        """Gives the sequences of a step that is not begun drafts, and the blocks for them."""
        drawing = np.flatnonzero(schedule.samples & (schedule.counts == 1)).tolist()
        if self._thrifty:
            self._learn(schedule)
            if len(drawing) > _FEW:
                return
        self.drafter.keep(schedule.sequences)
        rows, wanted = [], []
        for row in drawing:
            sequence = schedule.sequences[row]
            most = min(self._most, sequence.max_length - len(sequence.tokens) - 1)  # the last token is drawn, whatever comes before
            if most > 0 and sequence.group is None and sequence.request.continuations is None:
                rows.append(row)
                wanted.append((sequence, most))
        drafts = self.drafter.draft(wanted) if wanted else []
        self._carry(schedule, rows, drafts, self._price.least_odds(len(drawing)) if self._thrifty else 0.0)
        if self._thrifty:
            self._guessed = {s: (len(s.tokens), draft) for (s, _), draft in zip(wanted, drafts, strict=True) if draft.tokens}
            self._began = self._clock()

    def _carry(self, schedule: Schedule, rows: list[int], drafts: list[Draft], price: float) -> None:
        total = int(schedule.counts.sum())
        left = self._scheduler.max_num_batched_tokens - total
        free = min(left, padded_rows(total) - total) if self._padded else 0
        for row, draft in zip(rows, drafts, strict=True):
            number = min(len(draft.tokens), left)
            if price:
                number = max(min(free, number), self._odds.worth(draft.past, number, price))
            number = self._scheduler.lend(row, number, schedule.copies)
            if number:
                schedule.drafts[row] = draft.tokens[:number]
                left, free = left - number, max(0, free - number)

    # -- learning --------------------------------------------------------------------------------------------------
    def finished(self, step: Step) -> None:
        """A step is computed: the time that it took is that of so many rows."""
        schedule = step.schedule
        if not schedule.sequences:
            return
        if self._thrifty and self._began and schedule.samples.all() and int(schedule.counts.max()) == 1:
            self._price.measured(len(schedule.counts) + step.num_drafts, self._clock() - self._began)
        self._began = 0.0

    def _learn(self, schedule: Schedule) -> None:
        """Compares what was guessed, whether it was computed or not, with what has come since."""
        if not self._guessed:
            return
        for sequence in schedule.sequences:
            if sequence not in self._guessed:
                continue
            size, draft = self._guessed[sequence]
            for place, token, came in zip(count(draft.past), draft.tokens, sequence.tokens[size:], strict=False):
                self._odds.saw(place, token == came)
                if token != came:
                    break
        self._guessed = {}
