"""Crew: the threads that compute an engine's texts, so that several steps are in flight at a time. See `infer.core.engine.lanes.team`.

A step is cut in none: lanes take texts as they come, each as many as leave the others their part. With few tokens one lane has all the
threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from ..engine.lanes.company import Company
from ..engine.lanes.team import Team
from ..engine.stats import EngineStats, Stopwatch
from ..settings.config import EngineConfig
from ..types.pooling_request import Pooled
from .runner import Runner

#: Tokens for each lane from which on several are used, and that a lane takes at least where there are so many.
ENOUGH = 256

Step = TypeVar("Step")
Made = TypeVar("Made")


class Work(Protocol[Step, Made]):
    """An engine, as its crew sees it."""

    stats: EngineStats

    @property
    def has_requests(self) -> bool:
        """True if there is something to compute."""

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens of texts that are in no step yet."""

    def take(self, budget: int, watch: Stopwatch) -> Step | None:
        """The next step, of so many tokens at most; None if nothing waits."""

    def take_refused(self) -> list[Pooled]:
        """Answers to requests that cannot be computed."""

    def compute(self, step: Step, runner: Runner, watch: Stopwatch) -> Made:
        """Computes a step. Touches nothing that lanes have in common."""

    def book(self, step: Step, made: Made, watch: Stopwatch) -> list[Pooled]:
        """Hands out what a step made; the requests that this finished."""


def crew_of(engine: Work[Step, Made], config: EngineConfig, runner: Runner) -> Crew[Step, Made] | None:
    """As many lanes as the configuration says; None for one, and for models that compute one step at a time."""
    runners = [runner]
    while len(runners) < config.lanes and (another := runner.beside()) is not None:
        runners.append(another)
    if len(runners) == 1:
        return None
    return Crew(engine, runners, config, None if config.lanes_always else Company(config.threads))


class Crew(Team[Step, tuple[Step, Made], Pooled]):
    """
    Args:
        engine: whose steps these are.
        runners: one for each lane.
        company: see `Team`.
    """

    def __init__(self, engine: Work[Step, Made], runners: Sequence[Runner], config: EngineConfig, company: Company | None = None) -> None:
        super().__init__(len(runners), config.threads, engine.stats, company, config.cpus)
        self._engine = engine
        self._runners = runners
        self._budget = config.max_num_batched_tokens
        self._active = 1
        self._stops = False
        """True while someone waits for all lanes to rest: none begins anything."""
        self.enough = ENOUGH

    @property
    def active(self) -> int:
        return self._active

    @property
    def has_requests(self) -> bool:
        return self._engine.has_requests

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Around what is done while nothing is computed. In turn."""
        self._stops = True
        try:
            self.rest()
            yield
        finally:
            self._stops = False
            self._wake()

    def _share_out(self) -> None:
        lanes = len(self._runners)
        pays = self._engine.num_waiting_tokens >= self.enough * lanes
        self._active = lanes if pays and (self._company is None or self._company.is_there()) else 1
        for number in range(1, self._active):
            self._start(number)

    def plan(self, number: int, watch: Stopwatch) -> Step | None:
        """The texts that a lane computes next; None if none are left to it."""
        if number >= self._active or self._stops:
            return None
        share = -(-self._engine.num_waiting_tokens // self._active)
        step = self._engine.take(min(self._budget, max(share, self.enough)), watch)
        self.outputs += self._engine.take_refused()
        if step is not None:
            self._busy[number] = True
        self._wake()
        return step

    def _others_work(self) -> bool:
        return self._stops or any(self._busy[1:])

    def compute(self, number: int, planned: Step, watch: Stopwatch) -> tuple[Step, Made]:
        """Computes the texts of a step."""
        return planned, self._engine.compute(planned, self._runners[number], watch)

    def book(self, number: int, made: tuple[Step, Made], watch: Stopwatch) -> None:
        """Hands out what was computed; requests that were dropped meanwhile have no part in it."""
        self._rest(number)
        self.outputs += self._engine.book(*made, watch)
        watch.count("commit")
