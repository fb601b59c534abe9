"""Launches of a step: how many things the host gives a GPU to do, counted where there is none.

A model on torch's device "meta", whose tensors have shapes and no content, computes a step with the GPU's own operations. What these
would launch is counted in place of that: Triton's kernels, and each of torch's operations that writes something on the device, copies to
it among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from infer import kernels
from infer.kernels.ops import SamplingRows

from .. import models
from ..build.recording import unrecordable
from ..engine.batch import Batch
from ..engine.graphs import StepGraphs, StepSizes
from ..engine.runner import Runner
from ..engine.static_inputs import StaticInputs
from ..memory import kv_cache, state_pools
from ..models.decoder import Decoder
from ..parallel.met import ALONE
from ..sampling.transfers import to_device
from ..settings.config import EngineConfig
from ..spec.model_spec import ModelSpec

_META = torch.device("meta")
#: Operations that give memory of any content.
_EMPTY = ("empty", "new_empty")


class Launches(NamedTuple):
    """Of one step."""

    eager: int
    recorded: int | None
    """Where the step is replayed; None: it would not be."""


class _Counter(TorchDispatchMode):
    """Counts what is launched while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        self.number += _writes(func, [*args, *kwargs.values()], made)
        return made

    def launch(self, *args: Any, **kwargs: Any) -> None:
        """In place of a kernel's launch."""
        self.number += 1

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        """As of `Recorder`: a replay is one launch."""
        compute()
        return self.launch


def _writes(func: Any, inputs: Sequence[Any], made: Any) -> bool:
    """True if one of torch's operations has written something on the device."""
    results = [one for one in _tensors([made]) if one.device == _META and one.numel()]
    if func._schema.is_mutable:
        return bool(results)
    if func.overloadpacket.__name__.startswith(_EMPTY):
        return False
    memory = {one.untyped_storage()._cdata for one in _tensors(inputs) if one.device == _META}
    return any(one.untyped_storage()._cdata not in memory for one in results)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


@contextmanager
def _counted() -> Iterator[_Counter]:
    """Counts all that is launched inside."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    counter, kinds = _Counter(), (JITFunction, InterpretedFunction)
    before = [kind.run for kind in kinds]
    try:
        for kind in kinds:
            kind.run = counter.launch
        with counter:
            yield counter
    finally:
        for kind, run in zip(kinds, before, strict=True):
            kind.run = run


class GPUSteps:
    """
    Args:
        context: tokens of a sequence at most.

    Raises ImportError where there is no Triton.
    """

    def __init__(self, config: EngineConfig, spec: ModelSpec, context: int) -> None:
        self._ops = kernels.load("cuda")
        model, dtype = models.build(spec, self._ops), torch.bfloat16
        self._context = context
        self._block_size = config.block_size
        self._runner: Runner | None = None
        if not isinstance(model, Decoder):
            return
        for parameter in model.parameters():
            for part in parameter.parts:
                parameter.fill(part, torch.empty(part.held, device=_META), dtype, _META)
        model.allocate(context, _META)
        caches = kv_cache.allocate(self._ops, kv_cache.KVShape(model.caches, dtype), 1, config.block_size, _META)
        pools = state_pools.allocate(state_pools.StateShape(model.states, dtype), 1, _META)
        self._runner = Runner(model, self._ops, caches, config.block_size, _META, pools)
        self._is_recorded = not unrecordable(config, model, self._ops, ALONE, ops_are_plain=True)

    def count(self, batch: Batch, rows: SamplingRows | None) -> Launches | None:
        """Of a step with a batch, and of its draws; None if that is not known of the model.

        Args:
            rows: how tokens are drawn; None: all are greedy.
        """
        if self._runner is None:
            return None
        if rows is not None:  # but for the noise they stay on the device from step to step
            lasting = {field.name: getattr(rows, field.name) for field in fields(rows) if field.name != "uniform"}
            rows = SamplingRows(**{name: to_device(tensor, _META) for name, tensor in lasting.items()}, uniform=rows.uniform)
        self._runner.drawn = torch.empty(max(1, batch.num_logits), dtype=torch.int64, device=_META) if batch.asks_back else None
        return Launches(self._run(batch, rows, recorded=False), self._run(batch, rows, recorded=True) if self._is_recorded else None)

    def _run(self, batch: Batch, rows: SamplingRows | None, *, recorded: bool) -> int:
        assert self._runner is not None
        with _counted() as counter, torch.inference_mode():
            self._runner.graphs = self._graphs(batch, counter) if recorded else None
            counter.number = 0
            logits = self._runner.run(batch)
            if rows is not None:
                rows = SamplingRows(rows.temperature, rows.top_k, rows.top_p, rows.min_p, to_device(rows.uniform, _META))
            self._ops.sample(logits, rows, None, None)
        return counter.number

    def _graphs(self, batch: Batch, counter: _Counter) -> StepGraphs | None:
        """A recording of the size that the batch fits, if it fits one."""
        assert self._runner is not None
        tokens, sequences = len(batch.slots), len(batch.kv_lens)
        size = StepSizes.choose(sequences, tokens).of(tokens, sequences)
        if size is None:
            return None
        sizes = StepSizes([size], []) if size.decodes_alone else StepSizes([], [size])
        inputs = StaticInputs(size, self._context, self._block_size, _META, spare_slot=-1)
        return StepGraphs(self._runner.model, self._runner.caches, inputs, sizes, counter, self._runner.pools)
