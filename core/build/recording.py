"""Recorded steps of a rank: where there are some, their sizes, and the memory that they take beside everything else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from infer.kernels.ops import KVCache, Ops

from ..engine.graphs import CudaRecorder, Recorder, StepGraphs, StepSizes
from ..engine.static_inputs import StaticInputs
from ..memory import kv_cache, state_pools
from ..memory.device_memory import MemoryPlan
from ..memory.kv_cache import KVShape
from ..memory.state_pools import StateShape
from ..models.decoder import Decoder
from ..models.language_model import LanguageModel
from ..parallel.met import Met
from ..settings.config import EngineConfig

log = logging.getLogger(__name__)

#: Bytes that the driver keeps for the kernels of one layer in one graph. Reckoned from what others tell of whole models (a few MiB a
#: graph of 32 layers); not measured.
LAYER_BYTES = 128 << 10


def is_recorded(config: EngineConfig, model: LanguageModel, ops: Ops, met: Met, device: torch.device, *, ops_are_plain: bool) -> bool:
    """True where steps are recorded: on a GPU, unless something is in the way of it, which is told."""
    if device.type != "cuda" or config.enforce_eager:
        return False
    why = unrecordable(config, model, ops, met, ops_are_plain=ops_are_plain)
    if why:
        log.info("no CUDA graphs: %s", why)
    return not why


def unrecordable(config: EngineConfig, model: LanguageModel, ops: Ops, met: Met, *, ops_are_plain: bool) -> str:
    """The reason why steps cannot be recorded, or "" if they can."""
    if not isinstance(model, Decoder):
        return "the model runs in transformers' code"
    if ops.name != "cuda":
        return f"the {ops.name} kernels read lengths from the device"
    if config.cpu_offload_gb:
        return "cpu_offload_gb moves weights"
    if met.place.stage.count > 1:
        return "stages of a pipeline wait for each other"
    if model.stack.has_experts:
        return "which experts have rows is known step by step"
    return "" if ops_are_plain else "operations are timed one by one"


def recorded(
    config: EngineConfig, model: LanguageModel, caches: list[KVCache], pools: Sequence[Sequence[Tensor]], device: torch.device
) -> StepGraphs:
    """All steps that it pays to record. Raises EngineError."""
    started = time.monotonic()
    sizes = _sizes(config)
    graphs = _graphs(config, model, caches, pools, device, sizes, CudaRecorder(device))
    number, largest, seconds = len(sizes.decodes) + len(sizes.mixed), sizes.largest, time.monotonic() - started
    log.info("CUDA graphs: %d, up to %d sequences and %d tokens, in %.1f s", number, *reversed(largest), seconds)
    return graphs


def graph_bytes(
    config: EngineConfig, model: LanguageModel, ops: Ops, shape: KVShape, states: StateShape, device: torch.device, plan: MemoryPlan
) -> int:
    """Bytes that `recorded` will take, before there is a cache: the static inputs, the hidden states, one pool for what all graphs
    compute in between, and the graphs themselves.

    The pool is nobody else's, and graphs that share it are never alive at a time, so it is as large as the step that takes most. To
    see how much that is, steps of some sizes are computed as they would be recorded. Raises EngineError.
    """
    sizes = _sizes(config)
    some = StepSizes(
        *([size for size in kind if size is kind[-1] or size.tokens & (size.tokens - 1) == 0] for kind in (sizes.decodes, sizes.mixed))
    )

    def rehearse() -> None:
        caches, pools = kv_cache.allocate(ops, shape, 1, config.block_size, device), state_pools.allocate(states, 0, device)
        _graphs(config, model, caches, pools, device, some, Rehearsal())

    layers = len(model.layers) if isinstance(model, Decoder) else 0
    return plan.beside(rehearse, "CUDA graphs") + (len(sizes.decodes) + len(sizes.mixed)) * layers * LAYER_BYTES


class Rehearsal:
    """A recorder that computes, and records nothing."""

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        compute()
        return compute


def _sizes(config: EngineConfig) -> StepSizes:
    return StepSizes.choose(config.max_num_seqs, config.max_num_batched_tokens)


def _graphs(
    config: EngineConfig,
    model: LanguageModel,
    caches: list[KVCache],
    pools: Sequence[Sequence[Tensor]],
    device: torch.device,
    sizes: StepSizes,
    recorder: Recorder,
) -> StepGraphs:
    longest = min(config.max_seq_len_to_capture, config.max_model_len)
    inputs = StaticInputs(sizes.largest, longest, config.block_size, device, spare_slot=-1)
    return StepGraphs(model, caches, inputs, sizes, recorder, pools)
