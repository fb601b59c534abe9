"""From a resolved configuration and a found model to what one rank has in memory: kernels, weights, and then its cache."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import torch

from infer import kernels
from infer.kernels.ops import Ops

from .. import models
from ..adapters.installed import Installed
from ..adapters.merged import adapter_to_merge, merged, unties
from ..errors import ConfigError, EngineError
from ..layers.rope import Ropes
from ..media.files import takes_images, takes_sounds
from ..memory import kv_cache, state_pools
from ..memory.device_memory import MemoryPlan, memory_of
from ..memory.swapper import Swapper
from ..models.any_rows import takes_any_rows
from ..models.decoder import Decoder
from ..models.encoder_decoder import EncoderDecoder
from ..models.hf import loading as hf_loading
from ..models.hf.model import HFModel
from ..models.hf.trial import warn_if_rows_differ
from ..models.language_model import LanguageModel
from ..parallel.group import current, sharding
from ..parallel.met import ALONE, Met
from ..parallel.sizes import check_size
from ..parallel.stages import as_stage
from ..quant import SCHEMES
from ..quant.choice import HEAD, Choose
from ..quant.stored import AsStored, Stored
from ..quant.told import kept
from ..settings.config import EngineConfig
from ..settings.threads import share_of
from ..spec.model_spec import ModelSpec
from ..spec.stack import StackSpec
from ..spec.support import LAYERS
from ..weights import loader
from ..weights.fit import beyond_layers
from ..weights.parameter import Parameter
from ..weights.quantized import QuantizedSource
from ..weights.renamed import as_stored, beginning, fit
from ..weights.source import ModelSource
from .decoder_prompts import forbidden_tokens
from .offload import CudaCopier, Offload, plan_offload
from .probe import make_rows_alike
from .profile import run_largest_steps
from .recording import graph_bytes, is_recorded, recorded
from .stage_runner import StageRunner
from .tower_memory import TowerMemory

log = logging.getLogger(__name__)

_NO_ENCODER = "models with an encoder and a decoder are not supported there yet; leave it out"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Room(NamedTuple):
    """Sizes of what is kept between steps, the same on all ranks."""

    num_blocks: int
    num_host_blocks: int
    """In CPU memory."""
    num_states: int
    any_rows: int = 0
    """1: steps need not be padded, see `Runner.any_rows`."""


#: Of ranks that keep nothing of the kind.
_NO_LIMIT = 2**31


@dataclass(frozen=True)
class Loaded:
    """A rank's part of the model before it has a KV cache and pools of states."""

    model: LanguageModel
    ops: Ops
    shape: kv_cache.KVShape
    states: state_pools.StateShape
    room: Room
    """As much as its memory could hold."""
    device: torch.device
    is_recorded: bool = False
    """Steps are: see `recording.is_recorded`."""
    met: Met = ALONE

    def runner(self, config: EngineConfig, room: Room) -> StageRunner:
        """Takes the memory of the cache and the pools."""
        caches = kv_cache.allocate(self.ops, self.shape, room.num_blocks, config.block_size, self.device)
        pools = state_pools.allocate(self.states, room.num_states, self.device)
        runner = StageRunner(self.model, self.ops, caches, config.block_size, self.device, pools, self.met.before, self.met.after)
        runner.any_rows = bool(room.any_rows)
        if config.enable_lora:
            runner.adapters = installed(self.model, DTYPES[config.dtype], self.device)
        if room.num_host_blocks:
            runner.swapper = Swapper(self.ops, caches, room.num_host_blocks)
        if self.is_recorded:
            runner.graphs = recorded(config, self.model, caches, pools, self.device)
        return runner


def load(
    config: EngineConfig,
    source: ModelSource,
    met: Met,
    wrap_ops: Callable[[Ops], Ops] | None = None,
    tower: TowerMemory | None = None,
) -> Loaded:
    """The weights of one rank, on its device. `tower`: what there must be room for beside them."""
    device, dtype = device_of(config, met.place.number), DTYPES[config.dtype]
    backend = load_kernels(config, device, *((config.num_ranks, met.place.number) if device.type == "cpu" else ()))
    ops = backend if wrap_ops is None else wrap_ops(backend)
    if why := backend.kv_refusal(kv_cache.kv_dtype(config, dtype)):
        raise ConfigError(f"kv_cache_dtype={config.kv_cache_dtype}: {why}")
    memory = None if config.kv_size_is_given else memory_of(device)
    plan = None if memory is None else MemoryPlan(memory, config.gpu_memory_utilization)
    with sharding(met.group), as_stage(met.place.stage):
        model = load_model(config, source, ops, dtype, device)
    with torch.inference_mode():
        make_rows_alike(backend, chain(model.linears(), [model.head] if met.place.stage.is_last else []), dtype, device)
        if isinstance(model, HFModel):
            warn_if_rows_differ(model, dtype)
    shape = kv_cache.KVShape(model.caches, kv_cache.kv_dtype(config, dtype))
    sharers = config.num_ranks * config.data_parallel_size if device.type == "cpu" else 1  # processes in one machine's memory
    states = state_pools.StateShape(model.states, dtype)
    records = is_recorded(config, model, ops, met, device, ops_are_plain=wrap_ops is None)
    usage, free = None, kv_cache.free_memory(device) // sharers
    if plan is not None:
        _allocate_rope(model, config.max_model_len, device)

        def largest_step() -> None:
            run_largest_steps(model, ops, shape, states, config, device, draws=met.place.number == 0)
            if tower is not None:
                tower.run()

        usage = plan.measure(largest_step)
        if records:
            usage = replace(usage, graphs=graph_bytes(config, model, ops, shape, states, device, plan))
        log.info("GPU memory: %s", usage)
        free = kv_cache.free_memory(device) // sharers
    elif tower is not None:  # it comes later; a run of it has room in what the cache leaves free
        free = max(0, free - tower.weights)
    if config.enable_lora:  # they come later, and there must be room for them
        adapters = config.max_cpu_loras * installed(model, dtype, device).bytes_of(config.max_lora_rank)
        free, usage = max(0, free - adapters), None if usage is None else replace(usage, peak=usage.peak + adapters)
    num_states = state_pools.choose_num_states(config, states, kv_cache.budget_of(config, free, usage), attends=bool(model.caches))
    num_blocks = kv_cache.choose_num_blocks(config, shape, free, usage, state_bytes=states.bytes_of(num_states))
    if plan is None:  # no sequence is longer than the cache
        _allocate_rope(model, min(config.max_model_len, num_blocks * config.block_size), device)
    if isinstance(model, Decoder) and model.stack.states and not num_states:  # of another stage's layers
        num_states = _NO_LIMIT
    num_host_blocks = 0 if num_states else kv_cache.choose_num_host_blocks(config, shape)
    if met.place.stage.count > 1 and not shape.caches and not num_states:
        num_host_blocks = _NO_LIMIT
    any_rows = device.type == "cpu" and takes_any_rows(model)
    return Loaded(model, ops, shape, states, Room(num_blocks, num_host_blocks, num_states, any_rows), device, records, met)


def installed(model: LanguageModel, dtype: torch.dtype, device: torch.device) -> Installed:
    """The layers of a model, ready for adapters. Raises ConfigError where they take none."""
    if isinstance(model, EncoderDecoder):
        raise ConfigError(f"enable_lora: {_NO_ENCODER}")
    if not isinstance(model, Decoder):
        raise ConfigError("enable_lora: the model runs in transformers' code, whose layers take no adapters here; leave it out")
    words = model.embedding if model.stage.is_first else None
    return Installed(model.stack, model.ops, model.linears(), model.head, words, dtype, device)


def _allocate_rope(model: LanguageModel, num_positions: int, device: torch.device) -> None:
    if isinstance(model, (Decoder, EncoderDecoder)):
        model.allocate(num_positions, device)


def load_kernels(config: EngineConfig, device: torch.device, ranks: int = 1, number: int = 0) -> Ops:
    """The backend, set as the configuration says; `ranks` share this machine's threads, and this is one of them."""
    ops = kernels.load(config.kernels)
    if config.threads:
        each = max(1, config.threads // ranks)
        kernels.set_threads(each, usual=True)
        kernels.place_workers(share_of(config.cpus, each, number), usual=True)
    ops.deterministic = config.deterministic
    return ops


def device_of(config: EngineConfig, rank: int) -> torch.device:
    """The device of a rank: GPUs are taken in order from the configured one."""
    device = torch.device(config.device)
    return device if device.type == "cpu" else torch.device(device.type, (device.index or 0) + rank)


def load_model(config: EngineConfig, source: ModelSource, ops: Ops, dtype: torch.dtype, device: torch.device) -> LanguageModel:
    """The model with its weights: in our code, or in transformers' where `model_impl` says so or leaves it open and we have none.

    Raises ModelError if config.json or weights are not what they should be, EngineError if memory runs out.
    """
    spec = source.spec(config.hf_overrides)
    if config.cpu_offload_gb and device.type == "cuda" and not spec.in_our_code(config.model_impl):
        kind = spec.model_type
        raise ConfigError(f"cpu_offload_gb: {kind} models run through transformers' code, which keeps its weights on the GPU; leave it out")
    with told(config, source):
        return (_load_ours if spec.in_our_code(config.model_impl) else load_through_transformers)(config, source, spec, ops, dtype, device)


@contextmanager
def told(config: EngineConfig, source: ModelSource) -> Iterator[None]:
    """Around loading weights: says how long it took, and what memory ran out for."""
    started = time.monotonic()
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise EngineError(f"no memory for the weights of {source.name} as {config.dtype}") from error
    log.info("weights: %s in %.1f s", config.dtype, time.monotonic() - started)


def _load_ours(
    config: EngineConfig, source: ModelSource, spec: ModelSpec, ops: Ops, dtype: torch.dtype, device: torch.device
) -> LanguageModel:
    check_size(spec, current().size, whole_experts=current().whole_experts)
    if config.load_format != "dummy" and spec.stack is not None and (stack := as_stored(spec.stack, source)) is not spec.stack:
        if stack.tie_embeddings != spec.stack.tie_embeddings:
            log.info("config.json ties output and input embeddings, but the weights have both: each is used")
        spec = replace(spec, stack=stack)
    if config.lora_merge and spec.stack is not None and unties(adapter_to_merge(config.lora_merge), spec.stack):
        spec = replace(spec, stack=replace(spec.stack, tie_embeddings=False))
    choose = chooser(config, source, ops, dtype)
    model = models.build(spec, ops, choose=choose)
    check_length(config, source, model.stack)
    offload = _offload(config, model, dtype, device)
    fill(config, source, model.stack, model.parameters(), dtype, device, choose=choose, ropes=model.ropes, whole=True)
    if isinstance(model, EncoderDecoder) and model.encoder is not None and (never := forbidden_tokens(config, source)):
        model.forbidden = torch.tensor(never, device=device)
    if offload is not None and isinstance(model, Decoder):
        offload.start(model)
    return model


def check_length(config: EngineConfig, source: ModelSource, stack: StackSpec) -> None:
    """Raises ConfigError for contexts that are longer than the positions a model has learned, and for blocks that fill no chunk."""
    for layer in stack.layers:
        chunk = None if layer.attention is None else layer.attention.chunk
        if chunk is not None and chunk % config.block_size:
            raise ConfigError(
                f"block_size={config.block_size}: {source.name} attends within chunks of {chunk} tokens, which whole blocks must fill; "
                f"give --block-size {math.gcd(chunk, config.block_size)}"
            )
    longest = stack.max_length
    if longest is not None and config.max_model_len > longest:
        raise ConfigError(f"max_model_len={config.max_model_len}: {source.name} has only {longest} learned positions; lower it to that")


def fill(
    config: EngineConfig,
    source: ModelSource,
    stack: StackSpec,
    parameters: Iterable[Parameter],
    dtype: torch.dtype,
    device: torch.device,
    *,
    choose: Choose | None,
    ropes: Ropes,
    whole: bool,
) -> None:
    """Loads the checkpoint into the parameters of a model, or random numbers. `whole` as of `renamed.fit`, `choose` the model's."""
    parameters = list(parameters)
    if config.lora_merge and (why := _unmergeable(config, source)):
        raise ConfigError(f"lora_merge: {why}")
    if config.load_format == "dummy":
        loader.load_dummy(parameters, dtype, device, seed=config.seed)
        _tell_kept(config, source, choose, dtype)
        return
    wanted = {part.name for parameter in parameters for part in parameter.parts}
    found: ModelSource = fit(source if dtype == torch.bfloat16 else source.exact(), stack, wanted, whole=whole)
    if config.lora_merge:
        adapter = adapter_to_merge(config.lora_merge)
        found = merged(found, stack, adapter, head=whole)
        log.info("lora_merge: %s, of rank %d, is part of the weights", config.lora_merge, adapter.config.rank)
    spec = source.spec(config.hf_overrides)
    if (
        not takes_images(config, source, spec)
        and not takes_sounds(config, source, spec)
        and (left_out := beginning(stack.naming.media, source))
        and not current().rank
    ):
        log.warning("%s: %d tensors that read images or sound are not read: the model is used for text alone", source.name, left_out)
    if (left_out := beginning(stack.naming.unused, source)) and not current().rank:
        log.warning("%s: %d tensors that guess further tokens ahead are not read", source.name, left_out)
    frequencies = ropes.all[0].frequencies if ropes.all else None
    if left := beyond_layers(config.hf_overrides, stack, found.tensors()):
        key = next(key for key in LAYERS if key in config.hf_overrides)
        log.warning("hf_overrides: %s %d leaves %d tensors of later layers unused", key, len(stack.layers), len(left))
    loader.load(parameters, found, dtype, device, ignore=left, frequencies=frequencies)
    _tell_kept(config, source, choose, dtype)


def _unmergeable(config: EngineConfig, source: ModelSource) -> str:
    if config.load_format == "dummy":
        return "random weights have no adapters; leave it out"
    if isinstance(source, QuantizedSource) or source.scheme:
        return f"the weights of {source.name} are quantized ({source.scheme}), and sums would not be; name the adapter as one of records"
    return ""


def _tell_kept(config: EngineConfig, source: ModelSource, choose: Choose | None, dtype: torch.dtype) -> None:
    """Says in how many bits linear layers are kept, and how they are multiplied."""
    if isinstance(choose, AsStored):
        ways = [f"{one['count']} {one['kept']} ({one['bytes'] / 2**20:,.0f} MiB)" for one in kept(choose.methods, dtype)]
        log.info("%s; linear layers: %s", source.scheme or config.quantization, "; ".join(ways))


def _offload(config: EngineConfig, model: Decoder | EncoderDecoder, dtype: torch.dtype, device: torch.device) -> Offload | None:
    """The offload of weights to CPU memory, if one is asked for; None on a CPU, where nothing is gained."""
    if device.type != "cuda" or not config.cpu_offload_gb:
        return None
    if isinstance(model, EncoderDecoder):
        raise ConfigError(f"cpu_offload_gb: {_NO_ENCODER}")
    if config.pipeline_parallel_size > 1:
        raise ConfigError("cpu_offload_gb: stages of a pipeline keep their weights on their GPUs; leave pipeline_parallel_size at 1")
    free = kv_cache.free_memory(torch.device("cpu")) // (current().size * config.data_parallel_size)
    return plan_offload(config, model, dtype, device, CudaCopier(device), free)


def load_through_transformers(
    config: EngineConfig, source: ModelSource, spec: ModelSpec, ops: Ops, dtype: torch.dtype, device: torch.device
) -> HFModel:
    """A language model in transformers' code. Raises what `hf.loading.load` does."""
    if config.lora_merge:
        raise ConfigError(f"lora_merge: {spec.model_type} models run through transformers' code; merge the adapter with PEFT")
    if current().size > 1:
        kind = spec.model_type
        raise ConfigError(f"tensor_parallel_size: {kind} models run through transformers' code, which ranks cannot share; leave it at 1")
    log.info("model code: transformers' (model_type %s)%s", spec.model_type, f"; ours lacks it: {spec.lacking}" if spec.is_variant else "")
    return hf_loading.load(
        source,
        spec,
        ops,
        dtype,
        device,
        choose=chooser(config, source, ops, dtype),
        max_model_len=config.max_model_len,
        trust_remote_code=config.trust_remote_code,
        dummy_seed=config.seed if config.load_format == "dummy" else None,
    )


def chooser(config: EngineConfig, source: ModelSource, ops: Ops, dtype: torch.dtype) -> Choose | None:
    """The choice of a scheme for each linear layer; None: all are stored plainly. Raises ConfigError if this machine cannot do it."""
    if isinstance(source, QuantizedSource) or (source.scheme and config.quantization is None):
        return AsStored(ops, dtype, rows=config.activation_dtype)
    if config.quantization is None:
        return None
    scheme = SCHEMES[config.quantization]
    if why := scheme.refusal(ops):
        raise ConfigError(f"quantization={config.quantization}: {why}")
    plain = frozenset() if config.quantize_lm_head else frozenset({HEAD})
    if issubclass(scheme, Stored):
        return AsStored(ops, dtype, rows=config.activation_dtype, method=scheme, plain=plain)
    return lambda name: None if name in plain else scheme(ops)
