"""Pipeline: batches of several lanes on their way through the stages of one model, in one thread.

    stage 0      | lane 0 | lane 1 | lane 0 | lane 1 ...
    stage 1               | lane 0 | lane 1 | lane 0 ...      the last one, in this process: it draws tokens, and books them

All stages compute batches in the order in which they were begun, so what a batch finds in the cache is what it would find if each were
done before the next began. There are as many lanes as stages: while one batch is booked and its lane's next one begun, the others are on
their way. Beam searches stay in one lane.

A stage waits where a batch takes longer than the one before it, or the one behind it. So lanes have as many sequences as each other, and
prompts are computed in parts: see `Shares.batches`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as SequenceOf
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ...types.outputs import RequestOutput
from ..stats import Stopwatch
from .crew import Work
from .lane import Lane, Planned

#: Rounds of the lanes that prompts are spread over.
SPREAD = 8


class Pipeline:
    """
    Args:
        engine: whose steps these are.
        lanes: as many as the model has stages.
    """

    def __init__(self, engine: Work, lanes: SequenceOf[Lane]) -> None:
        self._engine = engine
        self._lanes = lanes
        self._idle = deque(range(len(lanes)))
        """Lanes without a batch on its way, the one that has waited longest first."""
        self._begun: deque[tuple[int, Planned, Stopwatch]] = deque()
        self._shares = lanes[0].scheduler.shares
        self._shares.batches = SPREAD * len(lanes)
        self.outputs: list[RequestOutput] = []
        """Answers that nobody was given yet."""

    @property
    def turn(self) -> AbstractContextManager[Any]:
        """Around whatever changes the books: here nobody else does."""
        return nullcontext()

    def step(self) -> list[RequestOutput]:
        """Begins the next batch of each lane that has none on its way, and books the one that was begun first; returns the requests
        that this finished."""
        self._shares.active = 1 if self._engine.has_beams else len(self._lanes)
        for number in [*self._idle]:
            self._begin(number)
        if self._begun:
            self._book()
        if not self._engine.has_requests:
            self.rest()
        outputs, self.outputs = [*self.outputs, *self._engine.fail_refused()], []
        return outputs

    def rest(self) -> None:
        """Sees all batches through that are on their way."""
        while self._begun:
            self._book()

    def end(self) -> None:
        """There is no thread to end."""

    def _begin(self, number: int) -> None:
        lane, watch = self._lanes[number], Stopwatch(self._engine.stats.seconds, 1 / self._shares.active)
        planned = self._engine.plan(lane, lane.scheduler.schedule(), watch)
        if planned is None:
            return
        self._engine.runner.begin(planned.batch)
        lane.begun(planned.schedule)
        self._idle.remove(number)
        self._begun.append((number, planned, watch))

    def _book(self) -> None:
        """Computes the last stage of the batch that was begun first, and books it; those of its sequences that were dropped meanwhile
        have no part in it."""
        number, planned, watch = self._begun.popleft()
        lane = self._lanes[number]
        step = self._engine.compute(lane, planned, watch)
        samples = lane.sampler.finish(step.draws)
        watch.count("sample")
        lane.ended(step)
        self._idle.append(number)
        self.outputs += self._engine.book(lane, step, samples, watch)
        watch.count("commit")
