"""Team: the threads that compute several batches of one engine at a time, whatever is computed.

    thread 0, the caller's  | plan | compute ............ | book | plan | compute ........
    thread 1                   | plan | compute ...... | book | plan | compute ..........

To plan and to book changes books that all have in common, so one thread does that at a time: it has the turn. To compute touches
nothing of the others: kernels release the interpreter, and no thread waits for those of another, so one that the system takes a core
from for a while holds nobody up.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from infer.kernels import place_workers, set_threads

from ..stats import EngineStats, Stopwatch
from .company import Company

#: What is planned, what computing it gives, and what is answered.
Planned = TypeVar("Planned")
Made = TypeVar("Made")
Output = TypeVar("Output")


class Team(ABC, Generic[Planned, Made, Output]):
    """
    Args:
        count: batches that are computed at a time, at most.
        threads: of all of them together.
        stats: of the engine.
        company: those beside the first are computed while there is some; None: always.
        cpus: where these threads are kept, in order; none: wherever the system puts them. The caller's own is not: what it starts would be
            kept there too.
    """

    def __init__(self, count: int, threads: int, stats: EngineStats, company: Company | None = None, cpus: Sequence[int] = ()) -> None:
        assert 1 < count <= threads
        self._threads = threads
        self._stats = stats
        self._company = company
        self._num_threads = [threads // count + (i < threads % count) for i in range(count)]
        self._cpus = cpus
        self._busy = [False] * count
        """Those whose batch is being computed."""
        self._workers: list[threading.Thread | None] = [None] * count
        self.outputs: list[Output] = []
        """Answers that nobody was given yet."""
        self._error: BaseException | None = None
        self._num_raised = 0
        """Errors raised to the caller. If a batch was planned before the last of them and fails too, its error is dropped."""
        self._ending = False
        self.turn = threading.Condition(threading.RLock())

    def step(self) -> list[Output]:
        """Computes a batch of the first, if there is one to compute, else waits for one of another; returns the requests that any
        have finished since."""
        with self.turn:
            self._share_out()
            watch = self._watch()
            planned = self.plan(0, watch)
            while planned is None and not self.outputs and self._error is None and self._others_work():
                self.turn.wait()
                planned = self.plan(0, watch)
            alone = not any(self._busy[1:])
        if planned is not None:
            try:
                self._run(0, planned, watch, self._threads if self.active == 1 and alone else self._num_threads[0])
            except BaseException:
                with self.turn:
                    self._error = None
                    self._num_raised += 1
                raise
        with self.turn:
            if not self.has_requests:
                self.rest()
            if self._error is not None:
                error, self._error = self._error, None
                self._num_raised += 1
                raise error
            return self._answers()

    def rest(self) -> None:
        """Waits until nothing is computed. Whoever calls has the turn."""
        while any(self._busy):
            self.turn.wait()

    def end(self) -> None:
        """Ends the threads, after the batches that they are at."""
        with self.turn:
            self._ending = True
            self.turn.notify_all()
        for worker in self._workers:
            if worker is not None:
                worker.join()

    # -- what is computed ------------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def active(self) -> int:
        """Batches that are to be computed at a time for now."""

    @property
    @abstractmethod
    def has_requests(self) -> bool:
        """True if something is not answered."""

    @abstractmethod
    def _share_out(self) -> None:
        """Chooses `active`, and sees that there are threads for them: `_start`."""

    @abstractmethod
    def plan(self, number: int, watch: Stopwatch) -> Planned | None:
        """The next batch, from then on `_busy`; None if there is nothing to do for now. In turn."""

    @abstractmethod
    def compute(self, number: int, planned: Planned, watch: Stopwatch) -> Made:
        """Computes a batch. Not in turn."""

    @abstractmethod
    def book(self, number: int, made: Made, watch: Stopwatch) -> None:
        """Books a batch that was computed: `outputs`, and `_rest`. In turn."""

    @abstractmethod
    def _others_work(self) -> bool:
        """True if others than the first compute, or are about to. In turn."""

    def _answers(self) -> list[Output]:
        outputs, self.outputs = self.outputs, []
        return outputs

    # -- threads ---------------------------------------------------------------------------------------------------
    def _watch(self) -> Stopwatch:
        return Stopwatch(self._stats.seconds, 1 / self.active)

    def _start(self, number: int) -> None:
        worker = self._workers[number]
        if worker is None or not worker.is_alive():
            worker = self._workers[number] = threading.Thread(target=self._work, args=(number,), name=f"lane-{number}", daemon=True)
            worker.start()

    def _wake(self) -> None:
        """Lets those that have nothing to do look again."""
        self.turn.notify_all()

    def _rest(self, number: int) -> None:
        """A batch is over, computed or not."""
        self._busy[number] = False
        self._wake()

    def _run(self, number: int, planned: Planned, watch: Stopwatch, threads: int) -> None:
        """Computes a planned batch, and books it."""
        set_threads(threads)
        try:
            made = self.compute(number, planned, watch)
        except BaseException:
            with self.turn:
                self._rest(number)
            raise
        with self.turn:
            self.book(number, made, watch)

    def _pin(self, number: int) -> None:
        """Keeps the calling thread and those it computes with where they belong."""
        first, count = sum(self._num_threads[:number]), self._num_threads[number]
        own = [self._cpus[i % len(self._cpus)] for i in range(first, first + count)] if self._cpus else []
        if own:
            with suppress(OSError):  # the CPU has gone since
                os.sched_setaffinity(0, own[:1])
            place_workers(own)

    def _work(self, number: int) -> None:
        """A thread beside the caller's: ends where nothing is left to answer."""
        self._pin(number)
        try:
            while True:
                with self.turn:
                    num_raised = self._num_raised
                    while (planned := None if self._ending else self.plan(number, watch := self._watch())) is None:
                        if self._ending or not self.has_requests:
                            return
                        self.turn.wait()
                self._run(number, planned, watch, self._num_threads[number])
        except BaseException as error:
            with self.turn:
                if num_raised == self._num_raised:
                    self._error = error
                self._wake()
