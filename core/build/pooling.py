"""From a resolved configuration and a found model to a PoolingModel with its weights."""

from __future__ import annotations

import logging

import torch

from infer.kernels.ops import Ops

from .. import models
from ..adapters.installed import Installed
from ..errors import ConfigError
from ..layers.classifier import Classifier, ScoringHead, TokenScores
from ..models.decoder import Decoder
from ..models.encoder import Encoder
from ..models.flat_decoder import FlatDecoder
from ..models.hf.trial import warn_if_rows_differ
from ..models.pooling_model import PoolingModel
from ..pooling.recipe import Recipe
from ..settings.config import EngineConfig
from ..spec.classes import head_of
from ..spec.model_spec import ModelSpec
from ..spec.stack import StackSpec
from ..spec.support import check_causal, refuse_unsupported
from ..weights.renamed import untied
from ..weights.source import ModelSource
from .generating import check_length, chooser, fill, load_through_transformers, told
from .probe import rows_are_alike

log = logging.getLogger(__name__)


def load_pooling_model(
    config: EngineConfig, source: ModelSource, ops: Ops, recipe: Recipe, dtype: torch.dtype, device: torch.device
) -> PoolingModel:
    """The model with its weights, and with its classifier where the recipe is one's.

    Raises ModelError if config.json or weights are not what they should be or the model is none of those that are supported,
    ConfigError for settings it cannot have, EngineError if memory runs out.
    """
    spec = source.spec(config.hf_overrides)
    labels = len(recipe.labels) if recipe.kind == "classify" else 0
    with told(config, source):
        if spec.is_encoder:
            model: PoolingModel = _load_encoder(config, source, spec, ops, labels, dtype, device)
        elif spec.in_our_code(config.model_impl):
            model = _load_decoder(config, source, spec, ops, recipe, dtype, device)
        else:
            model = _load_through_transformers(config, source, spec, ops, labels, dtype, device)
        if isinstance(model.classifier, ScoringHead):
            _probe(model.classifier, ops, device)
    return model


def installed_in(model: PoolingModel, dtype: torch.dtype, device: torch.device, *, unread: bool) -> tuple[StackSpec, Installed]:
    """The layers of a model, ready for adapters. Raises ConfigError where they take none."""
    if isinstance(model, Encoder):
        stack, words = model.stack, model.embedding.words
    elif isinstance(model, FlatDecoder) and isinstance(model.model, Decoder):
        stack, words = model.model.stack, model.model.embedding
    else:
        raise ConfigError("enable_lora: the model runs in transformers' code, whose layers take no adapters here; leave it out")
    return stack, Installed(stack, model.ops, model.linears(), None, words, dtype, device, unread=unread)


@torch.inference_mode()
def _probe(head: ScoringHead, ops: Ops, device: torch.device) -> None:
    """The head's layers are not the stack's: other shapes, and float32. When it matters, see `make_rows_alike`."""
    if device.type == "cuda" and not ops.deterministic:
        return
    head.one_by_one = not all(rows_are_alike(layer, torch.float32, device) for layer in head.linears())


def _load_encoder(
    config: EngineConfig, source: ModelSource, spec: ModelSpec, ops: Ops, labels: int, dtype: torch.dtype, device: torch.device
) -> Encoder:
    if config.model_impl == "transformers":
        raise ConfigError(f"model_impl=transformers: a {spec.model_type} model runs in our code alone; leave it out")
    choose = chooser(config, source, ops, dtype)
    model = models.build_encoder(spec, ops, labels=labels, choose=choose)
    check_length(config, source, model.stack)
    fill(config, source, model.stack, model.parameters(), dtype, device, choose=choose, ropes=model.ropes, whole=False)
    model.allocate(config.max_model_len, device)
    return model


def _load_decoder(
    config: EngineConfig, source: ModelSource, spec: ModelSpec, ops: Ops, recipe: Recipe, dtype: torch.dtype, device: torch.device
) -> FlatDecoder:
    check_causal(spec, source.name)
    labels = len(recipe.labels) if recipe.kind == "classify" else 0
    choose = chooser(config, source, ops, dtype)
    decoder = models.build(spec, ops, choose=choose)
    check_length(config, source, decoder.stack)
    head: ScoringHead | None = None
    if recipe.token_ids:
        head = TokenScores(ops, untied(decoder.stack, source), recipe.token_ids, difference=recipe.difference)
    elif labels:
        classifier = head_of(spec)
        assert classifier is not None, "language models have one"
        head = Classifier(ops, decoder.hidden_size, labels, classifier, decoder.stack.norm)
    model = FlatDecoder(decoder, dtype, config.block_size, head)
    fill(config, source, decoder.stack, model.parameters(), dtype, device, choose=choose, ropes=decoder.ropes, whole=False)
    decoder.allocate(config.max_model_len, device)
    return model


def _load_through_transformers(
    config: EngineConfig, source: ModelSource, spec: ModelSpec, ops: Ops, labels: int, dtype: torch.dtype, device: torch.device
) -> FlatDecoder:
    refuse_unsupported(spec, source.name, task="classify" if labels else "embed", model_impl=config.model_impl)
    check_causal(spec, source.name)
    model = load_through_transformers(config, source, spec, ops, dtype, device)
    with torch.inference_mode():
        warn_if_rows_differ(model, dtype)
    return FlatDecoder(model, dtype, config.block_size)
