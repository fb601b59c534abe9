"""Throughput of an engine that answers a workload several times, as `infer generate` would.

Each pass is a Run of its own, from bytes to bytes, and finds the engine as it was when it was loaded: nothing cached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from infer.kernels.ops import Ops

from ..build.engines import build_engine
from ..build.plan import Plan
from ..engine.engine import Engine
from ..engine.stats import EngineStats
from ..errors import ConfigError, InferError
from ..jobs.run import Run
from ..jobs.stats import JobStats
from ..jobs.tasks.base import Task
from .sink import Sink
from .timing import OpKey, OpTime, TimedOps
from .workload import Workload


@dataclass(frozen=True)
class Pass:
    """One pass over the workload. Seconds are from the first record admitted to the last row written."""

    seconds: float
    first_token_s: float
    """Seconds from the first record admitted to the first token drawn."""
    records: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    steps: int
    preemptions: int
    peak_kv_usage: float
    sha256: str
    """Of the output file this pass would have written."""


@dataclass(frozen=True)
class TimedPass:
    """A pass with a stopwatch at every part. The stopwatches take time too: no measure of throughput."""

    whole: Pass
    outer: Mapping[str, float]
    """Seconds in parts of the job: read, tokenize, admit, step."""
    stages: Mapping[str, float]
    """Seconds in parts of the engine's steps, as `EngineStats.seconds`."""
    ops: Mapping[OpKey, OpTime]


class Throughput:
    """An engine and a task, loaded once.

    Attributes:
        load_s: seconds that weights, cache and kernels took to be ready.
        ready_at: `time.monotonic()` when they were.

    Raises ModelError, ConfigError, EngineError.
    """

    def __init__(self, plan: Plan, make_task: Callable[[Plan], Task]) -> None:
        if plan.config.data_parallel_size > 1:
            raise ConfigError("infer bench measures one engine: leave data_parallel_size at 1")
        started = time.monotonic()
        self.plan = plan
        self.timed_ops: TimedOps
        self.engine: Engine = build_engine(plan, self._wrap)
        self.task = make_task(plan)
        self.ready_at = time.monotonic()
        self.load_s = self.ready_at - started

    @property
    def ops(self) -> Ops:
        """The backend, without stopwatches."""
        return self.timed_ops.plain

    def run(self, workload: Workload) -> Pass:
        """One pass. Raises InferError if no record could be answered."""
        return self._run(workload, self.engine, self.task, workload.reader())

    def run_timed(self, workload: Workload) -> TimedPass:
        """One pass with all stopwatches on."""
        outer = dict.fromkeys(("read", "tokenize", "admit", "step"), 0.0)
        engine = _Watched(self.engine, outer, {"add": "admit", "step": "step"})
        task = _Watched(self.task, outer, {"prepare": "tokenize"})
        reader = _Watched(workload.reader(), outer, {"take": "read"})
        self.timed_ops.times.clear()
        self.timed_ops.on = True
        try:
            whole = self._run(workload, engine, task, reader)
        finally:
            self.timed_ops.on = False
        return TimedPass(whole, outer, dict(self.engine.stats.seconds), dict(self.timed_ops.times))

    def _wrap(self, ops: Ops) -> Ops:
        on_cuda = self.plan.config.device.startswith("cuda")
        self.timed_ops = TimedOps(ops, synchronize=torch.cuda.synchronize if on_cuda else None)
        return cast(Ops, self.timed_ops)

    def _run(self, workload: Workload, engine: Any, task: Any, reader: Any) -> Pass:
        self.engine.scheduler.blocks.reset()
        self.engine.stats = EngineStats()
        preempted_before = self.engine.scheduler.num_preemptions
        sink = Sink()
        job = Run(reader, sink, stats=JobStats(started_at=time.monotonic())).run(engine, task)
        stats = self.engine.stats
        if not job.num_answered:
            line, message = next(iter(job.first_errors.values()), (0, "it has no records"))
            raise InferError(f"nothing of {workload.name} could be answered, so there is nothing to measure: line {line}: {message}")
        assert job.run_s is not None
        assert job.admitted_at is not None
        assert stats.first_token_at is not None
        return Pass(
            seconds=job.run_s,
            first_token_s=stats.first_token_at - job.admitted_at,
            records=job.num_records,
            failed=job.num_failed,
            prompt_tokens=job.prompt_tokens,
            output_tokens=job.output_tokens,
            cached_tokens=stats.num_cached_tokens,
            steps=stats.num_steps,
            preemptions=stats.num_preemptions - preempted_before,
            peak_kv_usage=stats.peak_kv_usage,
            sha256=sink.sha256,
        )


class _Watched:
    """`target`, with the seconds spent in some of its methods added up in `seconds`, by the name each maps to."""

    def __init__(self, target: Any, seconds: dict[str, float], methods: Mapping[str, str]) -> None:
        self._target = target
        for method, name in methods.items():
            setattr(self, method, _watched(getattr(target, method), seconds, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def _watched(method: Callable[..., Any], seconds: dict[str, float], name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - started

    return call
