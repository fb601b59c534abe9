"""Crew: the threads that compute an engine's lanes, so that several batches are in flight at a time. See team.py.

A batch cut in two costs some 4 % (measured on 2 cores; each part goes through all the weights), so unless lanes are asked for they are
used while others want the cores too: company.py. With few sequences one lane has all the threads: a step of 16 rows reads all the
weights, and takes as long as one of 8.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from typing import Protocol

from ...sampling.sampler import Samples
from ...types.outputs import RequestOutput
from ..overlap import Step
from ..runner import Runner
from ..schedule import Schedule
from ..stats import EngineStats, Stopwatch
from .company import Company
from .lane import Lane, Planned
from .team import Team

#: Sequences for each lane from which on several are used.
ENOUGH = 16
#: A part of them that is enough to go on.
STILL_ENOUGH = 0.75


class Work(Protocol):
    """An engine, as its crew sees it."""

    runner: Runner
    stats: EngineStats

    @property
    def has_requests(self) -> bool:
        """True if there is something to compute."""

    @property
    def has_beams(self) -> bool:
        """True if a search is open."""

    @property
    def num_sequences(self) -> int:
        """Sequences that run or wait."""

    def plan(self, lane: Lane, schedule: Schedule, watch: Stopwatch) -> Planned | None:
        """Packs a step that was scheduled; None if there is nothing in it."""

    def compute(self, lane: Lane, planned: Planned, watch: Stopwatch) -> Step:
        """Computes a step, and begins to draw its tokens. Touches nothing that lanes have in common."""

    def book(self, lane: Lane, step: Step, samples: Samples, watch: Stopwatch) -> list[RequestOutput]:
        """Books what a step drew, and returns the requests that it finished."""

    def fail_refused(self) -> list[RequestOutput]:
        """Answers requests that cannot start."""


class Crew(Team[Planned, tuple[Step, Samples], RequestOutput]):
    """
    Args:
        engine: whose steps these are.
        lanes: the first is computed by the thread that calls.
        threads, company, cpus: see `Team`.
    """

    def __init__(
        self, engine: Work, lanes: SequenceOf[Lane], threads: int, company: Company | None = None, cpus: SequenceOf[int] = ()
    ) -> None:
        super().__init__(len(lanes), threads, engine.stats, company, cpus)
        self._engine = engine
        self._lanes = lanes
        self.enough = ENOUGH
        self._shares = lanes[0].scheduler.shares

    @property
    def active(self) -> int:
        return self._shares.active

    @property
    def has_requests(self) -> bool:
        return self._engine.has_requests

    def _share_out(self) -> None:
        enough = self.enough * len(self._lanes) * (1 if self._shares.active == 1 else STILL_ENOUGH)
        pays = self._engine.num_sequences >= enough and not self._engine.has_beams
        self._shares.active = len(self._lanes) if pays and (self._company is None or self._company.is_there()) else 1
        for number in range(1, len(self._lanes)):
            if number < self._shares.active or len(self._lanes[number].scheduler.running):
                self._start(number)

    def plan(self, number: int, watch: Stopwatch) -> Planned | None:
        """The next step of a lane, with its copies made; None if it has nothing to do for now."""
        lane, engine = self._lanes[number], self._engine
        num_before = len(lane.scheduler.running)
        planned = engine.plan(lane, lane.scheduler.schedule(), watch)
        if planned is None:
            if len(lane.scheduler.running) != num_before:  # it gave sequences away, or blocks back
                self._wake()
            return None
        planned = Planned(planned.schedule, engine.runner.move(planned.batch))
        lane.begun(planned.schedule)
        self._busy[number] = True
        self._wake()
        return planned

    def _others_work(self) -> bool:
        return any(self._busy[1:]) or any(
            len(lane.scheduler.running) and worker is not None and worker.is_alive()
            for lane, worker in zip(self._lanes[1:], self._workers[1:], strict=True)
        )

    def compute(self, number: int, planned: Planned, watch: Stopwatch) -> tuple[Step, Samples]:
        """Computes a planned step, and draws its tokens."""
        lane = self._lanes[number]
        step = self._engine.compute(lane, planned, watch)
        samples = lane.sampler.finish(step.draws)
        watch.count("sample")
        return step, samples

    def book(self, number: int, made: tuple[Step, Samples], watch: Stopwatch) -> None:
        """Books a step that was computed; those of its sequences that were dropped meanwhile have no part in it."""
        step, samples = made
        self._rest(number, step)
        self.outputs += self._engine.book(self._lanes[number], step, samples, watch)
        watch.count("commit")

    def _rest(self, number: int, step: Step | None = None) -> None:
        self._lanes[number].ended(step)
        super()._rest(number)

    def _answers(self) -> list[RequestOutput]:
        return [*super()._answers(), *self._engine.fail_refused()]
