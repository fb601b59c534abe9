"""Throughput of an engine that answers a workload several times, as `infer generate` would.

Each pass is a Run of its own, from bytes to bytes, and finds the engine as it was when it was loaded: nothing cached.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import torch

from infer.kernels.ops import Ops

from ..build.engines import build_engine, build_pooling_engine
from ..build.plan import Plan
from ..engine.engine import Engine
from ..engine.stats import EngineStats
from ..errors import ConfigError, InferError
from ..jobs.output.pipe import StraightOutput
from ..jobs.run import Run
from ..jobs.stats import JobStats
from ..jobs.tasks.protocol import AnyTask
from ..pooling.engine import PoolingEngine
from .timing import OpKey, OpTime, TimedOps
from .workload import Workload


@dataclass(frozen=True)
class TimedPass:
    """A pass with a stopwatch at every part. The stopwatches take time too: no measure of throughput."""

    job: JobStats
    outer: Mapping[str, float]
    """Seconds in parts of the job: read, tokenize, admit, step."""
    before: float
    """Those of reading and tokenizing before the first record was admitted, which is when a pass begins."""
    ops: Mapping[OpKey, OpTime]


class Throughput:
    """An engine, of a model that writes or pools, and a task, loaded once.

    Attributes:
        load_s: seconds that weights, cache and kernels took to be ready.
        ready_at: `time.monotonic()` when they were.

    Raises ModelError, ConfigError, EngineError.
    """

    def __init__(self, plan: Plan, make_task: Callable[[Plan], AnyTask]) -> None:
        if plan.config.data_parallel_size > 1 or plan.config.executor == "ray":
            raise ConfigError("infer bench measures one engine: leave data_parallel_size at 1, and executor at processes")
        started = time.monotonic()
        self.plan = plan
        self.timed_ops: TimedOps
        build = build_engine if plan.recipe is None else build_pooling_engine
        self.engine: Engine | PoolingEngine = build(plan, self._wrap)
        self.task = make_task(plan)
        self.ready_at = time.monotonic()
        self.load_s = self.ready_at - started

    @property
    def ops(self) -> Ops:
        """The backend, without stopwatches."""
        return self.timed_ops.plain

    def run(self, workload: Workload) -> JobStats:
        """One pass; its `output_sha256` is of the file it would have written. Raises InferError if no record could be answered."""
        return self._run(workload, self.engine, self.task, workload.reader())

    def run_timed(self, workload: Workload) -> TimedPass:
        """One pass with all stopwatches on."""
        outer = dict.fromkeys(("read", "tokenize", "admit", "step"), 0.0)
        engine: Any = _Watched(self.engine, outer, {"add": "admit", "step": "step"})
        before: list[float] = []
        engine.add = _noting(engine.add, outer, before)
        task = _Watched(self.task, outer, {"prepare": "tokenize"})
        reader = _Watched(workload.reader(), outer, {"take": "read"})
        self.timed_ops.times.clear()
        self.timed_ops.on = True
        try:
            job = self._run(workload, engine, task, reader)
        finally:
            self.timed_ops.on = False
        return TimedPass(job, outer, before[0], dict(self.timed_ops.times))

    def _wrap(self, ops: Ops) -> Ops:
        on_cuda = self.plan.config.device.startswith("cuda")
        self.timed_ops = TimedOps(ops, synchronize=torch.cuda.synchronize if on_cuda else None)
        return cast(Ops, self.timed_ops)

    def _run(self, workload: Workload, engine: Any, task: Any, reader: Any) -> JobStats:
        if isinstance(self.engine, Engine):
            self.engine.scheduler.blocks.reset()
            self.engine.scheduler.num_preemptions = 0
        self.engine.stats = EngineStats()
        stream = _Hashed()
        output = StraightOutput(workload.name, -1, stream, owned=False)
        job = Run(reader, output, stats=JobStats(started_at=time.monotonic())).run(engine, task)
        if not job.num_answered:
            line, message = next(iter(job.first_errors.values()), (0, "it has no records"))
            raise InferError(f"nothing of {workload.name} could be answered, so there is nothing to measure: line {line}: {message}")
        job.output_sha256 = stream.sha256.hexdigest()
        return job


class _Hashed(BytesIO):
    """A file of which the hash alone is kept: passes that are alike can be told to be."""

    def __init__(self) -> None:
        super().__init__()
        self.sha256 = hashlib.sha256()

    def write(self, data: Any, /) -> int:
        self.sha256.update(data)
        return len(data)


class _Watched:
    """`target`, with the seconds spent in some of its methods added up in `seconds`, by the name each maps to."""

    def __init__(self, target: Any, seconds: dict[str, float], methods: Mapping[str, str]) -> None:
        self._target = target
        for method, name in methods.items():
            setattr(self, method, _watched(getattr(target, method), seconds, name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def _noting(method: Callable[..., Any], seconds: Mapping[str, float], before: list[float]) -> Callable[..., Any]:
    """The same, which notes in `before` what `seconds` came to when it was called for the first time."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if not before:
            before.append(sum(seconds.values()))
        return method(*args, **kwargs)

    return call


def _watched(method: Callable[..., Any], seconds: dict[str, float], name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - started

    return call
