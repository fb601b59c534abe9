"""Recorded steps of a rank: where there are some, their sizes, and the memory that they take beside everything else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from infer.kernels.ops import DecodeLaunch, KVCache, Ops

from ..engine.graphs import MOST_LATER, CudaRecorder, Recorder, StepGraphs, StepSizes
from ..engine.static_inputs import StaticInputs, StepSize
from ..memory import kv_cache, state_pools
from ..memory.device_memory import MemoryPlan
from ..memory.kv_cache import KVShape
from ..memory.state_pools import StateShape
from ..models.decoder import Decoder
from ..models.decoder_layer import DecoderLayer
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
    sizes = _sizes(config, model)
    graphs = _graphs(config, model, caches, pools, device, sizes, CudaRecorder(device))
    number, largest, seconds = len(sizes.first), sizes.largest, time.monotonic() - started
    log.info("CUDA graphs: %d, up to %d sequences and %d tokens, in %.1f s", number, largest.sequences, largest.tokens, seconds)
    return graphs


def graph_bytes(
    config: EngineConfig, model: LanguageModel, ops: Ops, shape: KVShape, states: StateShape, device: torch.device, plan: MemoryPlan
) -> int:
    """Bytes that `recorded` will take, before there is a cache: the static inputs, the hidden states, one pool for what all graphs
    compute in between, and the graphs themselves.

    The pool is nobody else's, and graphs that share it are never alive at a time, so it is as large as the step that takes most. To
    see how much that is, steps of some sizes are computed as they would be recorded, those that may be recorded later among them. Raises
    EngineError.
    """
    sizes = _sizes(config, model)
    some = StepSizes(_some(sizes.decodes), _some(sizes.mixed), sizes.launch)

    def rehearse() -> None:
        caches, pools = kv_cache.allocate(ops, shape, 1, config.block_size, device), state_pools.allocate(states, 0, device)
        graphs = _graphs(config, model, caches, pools, device, some, Rehearsal())
        for size in some.later:
            graphs.record(size)

    number = len(sizes.first) + min(len(sizes.later), MOST_LATER)
    return plan.beside(rehearse, "CUDA graphs") + number * len(_layers(model)) * LAYER_BYTES


def _some(sizes: Sequence[StepSize]) -> list[StepSize]:
    """The last, and those of a power of 2 tokens."""
    return [size for size in sizes if size is sizes[-1] or size.tokens & (size.tokens - 1) == 0]


class Rehearsal:
    """A recorder that computes, and records nothing."""

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        compute()
        return compute


def _layers(model: LanguageModel) -> list[DecoderLayer]:
    return model.layers if isinstance(model, Decoder) else []


def _sizes(config: EngineConfig, model: LanguageModel) -> StepSizes:
    launches = [model.ops.decode_launch(layer.attention.config) for layer in _layers(model) if layer.attention is not None]
    whole = min((one.whole for one in launches), default=0)
    launch = DecodeLaunch(whole, joins=any(one.joins for one in launches))
    return StepSizes.choose(config.max_num_seqs, config.max_num_batched_tokens, launch)


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
    return StepGraphs(model, caches, inputs, sizes, recorder, pools, alone=config.num_ranks == 1)
