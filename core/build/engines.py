"""Engines put together from a plan: kernels, model, weights, memory, engine. No other file makes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from infer.kernels.ops import Ops

from ..adapters.books import Registry
from ..engine.engine import Engine
from ..layers.linear import Linear
from ..memory import kv_cache
from ..models.decoder import Decoder
from ..models.encoder_decoder import EncoderDecoder
from ..pooling.dense import Dense
from ..pooling.engine import PoolingEngine
from ..pooling.head import Head
from ..pooling.runner import Runner
from ..quant.told import weights_told
from ..sampling.transfers import on
from ..settings.config import EngineConfig
from ..weights.parameter import Parameter
from .draft_model import build_draft_model
from .end_tokens import end_tokens_of
from .generating import DTYPES, device_of, load_kernels
from .plan import Plan
from .pooling import installed_in, load_pooling_model
from .probe import make_rows_alike
from .sharded import build_runner
from .tower_memory import TowerMemory

#: Makes what takes the place of the loaded backend, to time or trace its operations.
WrapOps = Callable[[Ops], Ops]


def build(plan: Plan) -> Engine | PoolingEngine:
    """The engine of a plan, in this process. Raises ModelError, ConfigError, EngineError."""
    return build_engine(plan) if plan.recipe is None else build_pooling_engine(plan)


def build_engine(plan: Plan, wrap_ops: WrapOps | None = None) -> Engine:
    """The same for a model that generates; also raises ConfigError for one that pools."""
    plan.must_generate()
    config, tokenizer = plan.config, plan.tokenizer
    media = plan.media_store
    runner, num_blocks = build_runner(config, plan.source, wrap_ops, TowerMemory.of(config, plan.source, plan.spec, media))
    runner.encoder = media
    if wrap_ops is not None:  # operations are timed one after the other
        config = replace(config, lanes=1)
    if runner.num_states:
        config = replace(config, max_num_seqs=min(config.max_num_seqs, runner.num_states))
    ends = end_tokens_of(config, plan.source, tokenizer)
    drafter = build_draft_model(config, num_blocks, tokenizer, ends, runner) if config.speculation == "draft" else None
    engine = Engine(
        config,
        runner,
        num_blocks,
        tokenizer,
        ends,
        runner.model.vocab_size,
        drafter=drafter,
        max_idle_blocks=kv_cache.max_idle_blocks(runner.caches),
        num_states=runner.num_states,
        swap=None if runner.swapper is None else runner.swapper.books(config),
        adapters=Registry(runner.model.stack, config.max_lora_rank) if config.enable_lora and isinstance(runner.model, Decoder) else None,
    )
    if media is not None:
        media.encoded = engine.stats.count_medium
    model = runner.model
    others = model.parameters() if isinstance(model, (Decoder, EncoderDecoder)) else ()
    engine.stats.weights = _told(config, chain(model.linears(), [model.head]), others)
    return engine


def _told(config: EngineConfig, linears: Iterable[Linear], parameters: Iterable[Parameter]) -> dict[str, Any]:
    """Linear layers have taken their tensors out of their parameters."""
    left = sum(parameter.tensor.nbytes for parameter in parameters)
    return weights_told((linear.method for linear in linears), left, DTYPES[config.dtype])


def build_pooling_engine(plan: Plan, wrap_ops: WrapOps | None = None) -> PoolingEngine:
    """The same for a model that pools; also raises ConfigError for one that generates."""
    config, source, recipe = plan.config, plan.source, plan.must_pool()
    if wrap_ops is not None:  # as above
        config = replace(config, lanes=1)
    device, dtype = device_of(config, 0), DTYPES[config.dtype]
    with on(device):
        backend = load_kernels(config, device)
        ops = backend if wrap_ops is None else wrap_ops(backend)
        model = load_pooling_model(config, source, ops, recipe, dtype, device)
        head = Head([Dense.load(spec, config, source, ops, device) for spec in recipe.dense], model.classifier, recipe.activation)
        with torch.inference_mode():
            make_rows_alike(backend, model.linears(), dtype, device)
            make_rows_alike(backend, head.linears(), torch.float32, device)
    runner, registry = Runner(model, recipe.pooling, device), None
    if config.enable_lora:
        stack, runner.adapters = installed_in(model, dtype, device, unread=model.classifier is None)
        registry = Registry(stack, config.max_lora_rank, head=False, unread=model.classifier is None)
    engine = PoolingEngine(config, recipe, runner, head, registry, plan.media)
    if plan.media is not None:
        plan.media.encoded = engine.stats.count_medium
    engine.stats.weights = _told(config, model.linears(), model.parameters())
    return engine
