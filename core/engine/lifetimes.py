"""Lifetimes of requests: when each came, began, had its first token and was answered.

A step costs a look at those that begin.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from ..types.outputs import RequestMetrics
from ..types.request import Request, Sequence
from .stats import EngineStats


@dataclass(slots=True)
class _Totals:
    """Seconds that the engine's steps took up to some moment."""

    scheduler: float
    model: float
    sampling: float

    @classmethod
    def of(cls, stats: EngineStats) -> _Totals:
        s = stats.seconds
        return cls(s["schedule"] + s["batch"] + s["commit"], s["model"], s["sample"])


class Lifetimes:
    """The metrics of open requests.

    What a request was computed for is the difference of two running totals, from its first step to its last, so the steps that
    a preempted one waited for count too.
    """

    def __init__(self) -> None:
        self._metrics: dict[Request, RequestMetrics] = {}
        self._before: dict[Request, _Totals] = {}
        self._starting: dict[Request, Sequence] = {}

    def arrived(self, request: Request) -> None:
        """A request was added."""
        self._metrics[request] = RequestMetrics(arrival_time=time.monotonic())

    def scheduled(self, sequences: Iterable[Sequence], stats: EngineStats) -> None:
        """These sequences begin to run, for the first time or again."""
        now = time.monotonic()
        for sequence in sequences:
            request = sequence.request
            metrics = self._metrics[request]
            if metrics.first_scheduled_time is None:
                metrics.first_scheduled_time = now
                metrics.time_in_queue = now - metrics.arrival_time
                self._before[request] = _Totals.of(stats)
                self._starting[request] = sequence

    def first_tokens(self) -> list[Sequence]:
        """The sequences that have the first output token of their request, each given once; to be called after each step."""
        if not self._starting:
            return []
        begun = [s for s in self._starting.values() if s.num_output]
        now = time.monotonic()
        for sequence in begun:
            self._metrics[sequence.request].first_token_time = now
            del self._starting[sequence.request]
        return begun

    def ended(self, request: Request, stats: EngineStats) -> RequestMetrics:
        """A request is answered or failed; what there is to say of it."""
        metrics = self._metrics.pop(request)
        metrics.finished_time = time.monotonic()
        if metrics.first_token_time is not None:
            metrics.last_token_time = metrics.finished_time
        before = self._before.get(request)
        if before is not None:
            totals = _Totals.of(stats)
            metrics.scheduler_time = totals.scheduler - before.scheduler
            metrics.model_forward_time = totals.model - before.model
            metrics.model_execute_time = metrics.model_forward_time + totals.sampling - before.sampling
        self.drop(request)
        return metrics

    def drop(self, request: Request) -> None:
        """Forgets a request."""
        self._metrics.pop(request, None)
        self._before.pop(request, None)
        self._starting.pop(request, None)
