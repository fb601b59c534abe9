"""From a resolved configuration and a found model to a PoolingModel with its weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from infer.kernels.ops import Ops

from .. import models
from ..errors import ConfigError, ModelError
from ..layers.classifier import Classifier
from ..models.encoder import Encoder
from ..models.flat_decoder import FlatDecoder
from ..models.hf.trial import warn_if_rows_differ
from ..models.pooling_model import PoolingModel
from ..pooling.recipe import Recipe
from ..settings.config import EngineConfig
from ..spec.support import refuse_unsupported
from ..weights import loader
from ..weights.renamed import Naming
from ..weights.source import ModelSource
from .generating import linear_method, load_through_transformers, ours, told
from .probe import rows_are_alike

log = logging.getLogger(__name__)

#: Embedding models often come as the base model alone, without the prefix that a language model's tensors have.
DECODER_NAMING = Naming(("model.",))
#: Settings of config.json that make a decoder's attention look ahead, and the values that leave it causal.
LOOKS_AHEAD: dict[str, tuple[Any, ...]] = {"is_causal": (None, True), "use_bidirectional_attention": (None, False, "vision")}


def load_pooling_model(
    config: EngineConfig, source: ModelSource, ops: Ops, recipe: Recipe, dtype: torch.dtype, device: torch.device
) -> PoolingModel:
    """The model with its weights, and with its classifier where the recipe is one's.

    Raises ModelError if config.json or weights are not what they should be or the model is none of those that are supported,
    ConfigError for settings it cannot have, EngineError if memory runs out.
    """
    hf_config = source.hf_config(config.hf_overrides)
    labels = len(recipe.labels) if recipe.kind == "classify" else 0
    with told(config, source):
        if models.is_encoder(hf_config):
            model: PoolingModel = _load_encoder(config, source, hf_config, ops, labels, dtype, device)
        elif ours(config, hf_config):
            model = _load_decoder(config, source, hf_config, ops, labels, dtype, device)
        else:
            model = _load_through_transformers(config, source, hf_config, ops, labels, dtype, device)
        if isinstance(model.classifier, Classifier):
            _probe(model.classifier, ops, device)
    return model


@torch.inference_mode()
def _probe(head: Classifier, ops: Ops, device: torch.device) -> None:
    """The head's layers are not the stack's: other shapes, and float32. When it matters, see `make_rows_alike`."""
    if device.type == "cuda" and not ops.deterministic:
        return
    head.one_by_one = not all(rows_are_alike(layer, torch.float32, device) for layer in head.linears())


def _load_encoder(
    config: EngineConfig,
    source: ModelSource,
    hf_config: Mapping[str, Any],
    ops: Ops,
    labels: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Encoder:
    if config.model_impl == "transformers":
        raise ConfigError(f"model_impl=transformers: a {hf_config['model_type']} model runs in our code alone; leave it out")
    model = models.build_encoder(hf_config, ops, labels=labels)
    longest = model.config.max_length
    if longest is not None and config.max_model_len > longest:
        raise ConfigError(f"max_model_len={config.max_model_len}: {source.name} has learned {longest} positions and knows no others")
    _fill(config, source, model, model.config.naming, dtype, device)
    model.allocate(config.max_model_len, device)
    return model


def _load_decoder(
    config: EngineConfig,
    source: ModelSource,
    hf_config: Mapping[str, Any],
    ops: Ops,
    labels: int,
    dtype: torch.dtype,
    device: torch.device,
) -> FlatDecoder:
    _check_causal(hf_config, source.name)
    decoder = models.build(hf_config, ops)
    head = Classifier(ops, decoder.config.hidden_size, labels, out="score", out_bias=False) if labels else None
    model = FlatDecoder(decoder, dtype, config.block_size, head)
    _fill(config, source, model, DECODER_NAMING, dtype, device)
    decoder.rope.allocate(config.max_model_len, device)
    return model


def _load_through_transformers(
    config: EngineConfig,
    source: ModelSource,
    hf_config: Mapping[str, Any],
    ops: Ops,
    labels: int,
    dtype: torch.dtype,
    device: torch.device,
) -> FlatDecoder:
    refuse_unsupported(hf_config, source.name, task="classify" if labels else "embed", model_impl=config.model_impl)
    _check_causal(hf_config, source.name)
    model = load_through_transformers(config, source, hf_config, ops, dtype, device)
    with torch.inference_mode():
        warn_if_rows_differ(model, dtype)
    return FlatDecoder(model, dtype, config.block_size)


def _fill(
    config: EngineConfig, source: ModelSource, model: Encoder | FlatDecoder, naming: Naming, dtype: torch.dtype, device: torch.device
) -> None:
    for linear in model.linears():
        linear.method = linear_method(config, model.ops, is_head=False) or linear.method
    parameters = list(model.parameters())
    source = source if dtype == torch.bfloat16 else source.exact()
    if config.load_format == "dummy":
        loader.load_dummy(parameters, dtype, device, seed=config.seed)
        return
    wanted = {part.name for parameter in parameters for part in parameter.parts}
    loader.load(parameters, naming.fit(source, wanted), dtype, device)


def _check_causal(hf_config: Mapping[str, Any], name: str) -> None:
    """Raises ModelError for a decoder trained to look ahead: its hidden states would come out, and be others."""
    text = hf_config.get("text_config")
    for one in (hf_config, text if isinstance(text, Mapping) else {}):
        for key, causal in LOOKS_AHEAD.items():
            if one.get(key) not in causal:
                raise ModelError(
                    f"{name}: its attention looks ahead (config.json: {key} {one[key]!r}), which is not supported for decoders"
                )
    if "AutoModel" in (hf_config.get("auto_map") or {}):
        log.warning("%s: config.json names Python code for its hidden states (auto_map AutoModel), which is not run", name)
