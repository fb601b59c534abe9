"""Crew: the threads that compute an engine's lanes, so that several batches are in flight at a time.

    lane 0, the caller's thread    | plan | compute ............ | book | plan | compute ........
    lane 1                            | plan | compute ...... | book | plan | compute ..........

To plan and to book changes the books that the lanes have in common, so one lane does that at a time: it has the turn. To compute
touches nothing of the others: kernels release the interpreter, and no lane waits for the threads of another, so one that the system
takes a core from for a while holds nobody up.

A batch cut in two costs some 4 % (measured on 2 cores; each part goes through all the weights), so unless lanes are asked for they are
used while others want the cores too: company.py. With few sequences one lane has all the threads: a step of 16 rows reads all the
weights, and takes as long as one of 8.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence as SequenceOf
from contextlib import suppress
from typing import Protocol

from infer.kernels import place_workers, set_threads

from ...sampling.sampler import Samples
from ...types.outputs import RequestOutput
from ..overlap import Step
from ..runner import Runner
from ..schedule import Schedule
from ..stats import EngineStats, Stopwatch
from .company import Company
from .lane import Lane, Planned

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


class Crew:
    """
    Args:
        engine: whose steps these are.
        lanes: the first is computed by the thread that calls.
        threads: of all lanes together.
        company: the lanes beside the first are used while there is some; None: always.
        cpus: where these threads are kept, in order; none: wherever the system puts them. The caller's own is not: what it starts would be
            kept there too.
    """

    def __init__(
        self, engine: Work, lanes: SequenceOf[Lane], threads: int, company: Company | None = None, cpus: SequenceOf[int] = ()
    ) -> None:
        assert 1 < len(lanes) <= threads
        self._engine = engine
        self._lanes = lanes
        self._threads = threads
        self._company = company
        self.enough = ENOUGH
        self._num_threads = [threads // len(lanes) + (i < threads % len(lanes)) for i in range(len(lanes))]
        self._cpus = cpus
        self._busy = [False] * len(lanes)
        """Lanes whose step is being computed."""
        self._workers: list[threading.Thread | None] = [None] * len(lanes)
        self._shares = lanes[0].scheduler.shares
        self.outputs: list[RequestOutput] = []
        """Answers that nobody was given yet."""
        self._error: BaseException | None = None
        self._ending = False
        self.turn = threading.Condition(threading.RLock())

    def step(self) -> list[RequestOutput]:
        """Computes a step of the first lane, if there is one to compute, else waits for one of another; returns the requests that
        any have finished since."""
        with self.turn:
            self._share_out()
            watch = Stopwatch(self._engine.stats.seconds, 1 / self._shares.active)
            planned = self.plan(0, watch)
            while planned is None and not self.outputs and self._error is None and self._others_work():
                self.turn.wait()
                planned = self.plan(0, watch)
            alone = not any(self._busy[1:])
        if planned is not None:
            self._run(0, planned, watch, self._threads if self._shares.active == 1 and alone else self._num_threads[0])
        with self.turn:
            if not self._engine.has_requests:
                self.rest()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            outputs, self.outputs = [*self.outputs, *self._engine.fail_refused()], []
            return outputs

    def rest(self) -> None:
        """Waits until no lane computes. Whoever calls has the turn."""
        while any(self._busy):
            self.turn.wait()

    def end(self) -> None:
        """Ends the threads, after the steps that they are at."""
        with self.turn:
            self._ending = True
            self.turn.notify_all()
        for worker in self._workers:
            if worker is not None:
                worker.join()

    # -- in turn ---------------------------------------------------------------------------------------------------
    def _share_out(self) -> None:
        """Chooses how many lanes are used, and sees that there are threads for them."""
        enough = self.enough * len(self._lanes) * (1 if self._shares.active == 1 else STILL_ENOUGH)
        pays = self._engine.num_sequences >= enough and not self._engine.has_beams
        self._shares.active = len(self._lanes) if pays and (self._company is None or self._company.is_there()) else 1
        for number in range(1, len(self._lanes)):
            worker = self._workers[number]
            has_work = number < self._shares.active or len(self._lanes[number].scheduler.running)
            if has_work and (worker is None or not worker.is_alive()):
                worker = self._workers[number] = threading.Thread(target=self._work, args=(number,), name=f"lane-{number}", daemon=True)
                worker.start()

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
        """True if lanes beside the first compute, or are about to."""
        return any(self._busy[1:]) or any(
            len(lane.scheduler.running) and worker is not None and worker.is_alive()
            for lane, worker in zip(self._lanes[1:], self._workers[1:], strict=True)
        )

    def _wake(self) -> None:
        """Lets lanes that have nothing to do look again."""
        self.turn.notify_all()

    def book(self, number: int, step: Step, samples: Samples, watch: Stopwatch) -> None:
        """Books a step that was computed; those of its sequences that were dropped meanwhile have no part in it."""
        self._rest(number, step)
        self.outputs += self._engine.book(self._lanes[number], step, samples, watch)
        watch.count("commit")

    def _rest(self, number: int, step: Step | None = None) -> None:
        """A lane's step is over."""
        self._lanes[number].ended(step)
        self._busy[number] = False
        self._wake()

    # -- in parallel -----------------------------------------------------------------------------------------------
    def compute(self, number: int, planned: Planned, watch: Stopwatch) -> tuple[Step, Samples]:
        """Computes a planned step, and draws its tokens."""
        lane = self._lanes[number]
        step = self._engine.compute(lane, planned, watch)
        samples = lane.sampler.finish(step.draws)
        watch.count("sample")
        return step, samples

    def _run(self, number: int, planned: Planned, watch: Stopwatch, threads: int) -> None:
        """Computes a planned step, and books it."""
        set_threads(threads)
        try:
            step, samples = self.compute(number, planned, watch)
        except BaseException:
            with self.turn:
                self._rest(number)
            raise
        with self.turn:
            self.book(number, step, samples, watch)

    def _pin(self, number: int) -> None:
        """Keeps the calling thread, a lane's, and those it computes with where they belong."""
        first, count = sum(self._num_threads[:number]), self._num_threads[number]
        own = [self._cpus[i % len(self._cpus)] for i in range(first, first + count)] if self._cpus else []
        if own:
            with suppress(OSError):  # the CPU has gone since
                os.sched_setaffinity(0, own[:1])
            place_workers(own)

    def _work(self, number: int) -> None:
        """The thread of a lane: ends where nothing is left to answer."""
        engine = self._engine
        self._pin(number)
        try:
            while True:
                with self.turn:
                    watch = Stopwatch(engine.stats.seconds, 1 / self._shares.active)
                    while (planned := None if self._ending else self.plan(number, watch)) is None:
                        if self._ending or not engine.has_requests:
                            return
                        self.turn.wait()
                self._run(number, planned, watch, self._num_threads[number])
        except BaseException as error:
            with self.turn:
                self._error = error
                self._wake()
