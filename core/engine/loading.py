"""From a resolved configuration and a found model to what runs a step: kernels, weights, cache."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from infer import kernels
from infer.kernels.ops import Ops

from .. import models
from ..config import EngineConfig, apply_hf_overrides
from ..errors import ConfigError, EngineError, ModelError
from ..models.decoder import Decoder
from ..quant import SCHEMES
from ..weights import loader
from ..weights.source import ModelSource
from . import kv_cache
from .probe import make_rows_alike
from .runner import Runner

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def build_runner(config: EngineConfig, source: ModelSource, wrap_ops: Callable[[Ops], Ops] | None = None) -> tuple[Runner, int]:
    """The runner with weights and cache in memory, and its number of usable KV blocks.

    Args:
        wrap_ops: what takes the place of the loaded backend, made from it: to time or trace its operations.
    """
    device, dtype = torch.device(config.device), DTYPES[config.dtype]
    if config.threads:
        torch.set_num_threads(config.threads)
    backend = kernels.load(config.kernels)
    ops = backend if wrap_ops is None else wrap_ops(backend)
    model = load_model(config, source, ops, dtype, device)
    with torch.inference_mode():
        make_rows_alike(backend, [*model.linears(), model.head], dtype, device)
    c = model.config
    shape = kv_cache.KVShape(c.num_layers, c.num_kv_heads, c.head_dim, dtype)
    num_blocks = kv_cache.choose_num_blocks(config, shape, kv_cache.free_memory(device))
    caches = kv_cache.allocate(ops, shape, num_blocks, config.block_size, device)
    return Runner(model, ops, caches, config.block_size, device), num_blocks


def load_model(config: EngineConfig, source: ModelSource, ops: Ops, dtype: torch.dtype, device: torch.device) -> Decoder:
    """Raises ModelError if config.json or weights are not what they should be, EngineError if memory runs out."""
    started = time.monotonic()
    hf_config = source.read_json("config.json")
    if hf_config is None:
        raise ModelError(f"{source.name} has no config.json, so its architecture is unknown")
    model = models.build(apply_hf_overrides(hf_config, config.hf_overrides), ops)
    _choose_methods(model, config)
    try:
        if config.load_format == "dummy":
            loader.load_dummy(model.parameters(), dtype, device, seed=config.seed)
        else:
            loader.load(model.parameters(), source, dtype, device, ignore=model.unused_tensors)
        model.rope.allocate(config.max_model_len, device)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise EngineError(f"no memory for the weights of {source.name} as {config.dtype}") from error
    log.info("weights: %s in %.1f s", config.dtype, time.monotonic() - started)
    return model


def _choose_methods(model: Decoder, config: EngineConfig) -> None:
    """Says how linear layers hold their weights, before there are any. Raises ConfigError if this machine cannot do it."""
    if config.quantization is None:
        return
    scheme = SCHEMES[config.quantization]
    if why := scheme.refusal(model.ops):
        raise ConfigError(f"quantization={config.quantization}: {why}")
    for linear in [*model.linears(), *([model.head] if config.quantize_lm_head else [])]:
        linear.method = scheme(model.ops)
