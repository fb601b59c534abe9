"""Tensors of a stack: the name and shape of each that a checkpoint must have, before there is a model. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .activations import LEARNED
from .distances import DisentangledSpec, DistanceSpec
from .mixers import Named
from .names import Names
from .stack import (
    AttentionSpec,
    ClassifierSpec,
    ExpertsSpec,
    LatentSpec,
    MLPSpec,
    NormSpec,
    PerLayerSpec,
    RoutingSpec,
    StackSpec,
)


def tensors(stack: StackSpec, *, head: bool, classifier: ClassifierSpec | None = None, labels: int = 0) -> dict[str, tuple[int, ...]]:
    """Shapes by name, of linear layers whose weights are stored plainly.

    Args:
        head: with the head that writes.
        classifier: with this one, of `labels`; None: without.
    """
    found = dict(_body(stack))
    if head and not stack.tie_embeddings:
        found[f"{stack.names.head}.weight"] = (stack.vocab_size, stack.output_size)
    if head and stack.logits_bias:
        found[stack.names.logits_bias] = (1, stack.vocab_size)
    if head and stack.head_bias:
        found[f"{stack.names.head}.bias"] = (stack.vocab_size,)
    if classifier is not None:
        found.update(_classifier(classifier, stack, labels))
    return found


def shared_inputs(stack: StackSpec, *, whole_experts: bool = False) -> Iterator[tuple[str, int]]:
    """The weights that ranks share by their input features, with how many these are: whatever adds to the stream of hidden states.

    `whole_experts`: each expert is one rank's."""
    names = stack.names
    for index, layer in enumerate(stack.layers):
        prefix = names.layer.format(index)
        if layer.attention is not None:
            yield f"{prefix}.{names.attention_out}.weight", layer.attention.value_width
        if layer.mixer is not None:
            yield from layer.mixer.shared_inputs(f"{prefix}.{names.mixer}")
        for part in (layer.feed_forward, layer.experts):
            if isinstance(part, MLPSpec):
                yield f"{prefix}.{names.down}.weight", part.size
            elif part is not None:
                for number in () if whole_experts else range(part.count):
                    yield f"{prefix}.{names.expert_down.format(number)}.weight", part.each.size
                if part.shared is not None:
                    yield f"{prefix}.{names.shared_down}.weight", part.shared.size


def _body(stack: StackSpec) -> Iterator[Named]:
    if stack.encoder is not None:
        yield from _body(stack.encoder)
    names, hidden = stack.names, stack.hidden_size
    embedded = stack.embedding_size or hidden
    placed = hidden if stack.projects_back else embedded
    tables = ((names.words, stack.vocab_size, embedded), (names.positions, 0 if stack.sinusoids else stack.num_positions, placed))
    for name, rows, features in (*tables, (names.types, stack.num_token_types, embedded)):
        if rows:
            yield f"{name}.weight", (rows, features)
    yield from _norm(names.embedding_norm, embedded, stack.norm)
    if stack.embedding_size is not None:
        yield from _linear(names.embedding_projection, hidden, embedded, bias=not stack.projects_back)
    if stack.projects_back:
        yield from _linear(names.output_projection, embedded, hidden, bias=False)
    if stack.per_layer is not None:
        yield from _per_layer(stack, stack.per_layer)
    if isinstance(stack.relative, DistanceSpec):
        for index in range(len(stack.layers) if stack.relative.per_layer else 1):
            yield f"{names.relative.format(index)}.weight", (stack.relative.buckets, stack.layers[index].need_attention().num_heads)
    if isinstance(stack.relative, DisentangledSpec):
        yield f"{names.relative}.weight", (2 * stack.relative.span, hidden)
        yield from _norm(names.relative_norm, hidden, stack.norm)
    for index, layer in enumerate(stack.layers):
        prefix = names.layer.format(index)
        normed = stack.first_is_normed and not index
        mixes = layer.attention is not None or layer.mixer is not None
        norms = (names.attention_norm, names.attention_out_norm) if mixes else ()
        for name in (*norms, *((names.mlp_norm, names.mlp_out_norm) if layer.feed_forward is not None else ())):
            if name and not (normed and name == names.attention_norm):
                yield from _norm(f"{prefix}.{name}", hidden, stack.norm)
        if layer.attention is not None:
            yield from _attention(prefix, names, hidden, layer.attention)
        if layer.cross is not None:
            yield from _norm(f"{prefix}.{names.cross_norm}", hidden, stack.norm)
            yield from _attention(prefix, replace(names, qkv=names.cross_qkv, attention_out=names.cross_out), hidden, layer.cross)
        if layer.mixer is not None:
            yield from layer.mixer.tensors(f"{prefix}.{names.mixer}", hidden)
        if isinstance(layer.feed_forward, ExpertsSpec):
            yield from _experts(prefix, names, hidden, layer.feed_forward)
        elif layer.feed_forward is not None:
            yield from _mlp(prefix, names.up, names.down, hidden, layer.feed_forward)
            for number in LEARNED if layer.feed_forward.learned_activation else ():
                yield f"{prefix}.{names.activation}.{number}", (1,)
        if layer.experts is not None:
            for name in (names.experts_norm, names.experts_out_norm, names.beside_experts_norm):
                yield from _norm(f"{prefix}.{name}", hidden, stack.norm)
            yield from _experts(prefix, names, hidden, layer.experts)
        if names.layer_scale:
            yield f"{prefix}.{names.layer_scale}", (1,)
    yield from _norm(names.final_norm, hidden, stack.norm)


def _per_layer(stack: StackSpec, spec: PerLayerSpec) -> Iterator[Named]:
    names, hidden, width = stack.names, stack.hidden_size, len(stack.layers) * spec.size
    yield f"{names.per_layer_words}.weight", (spec.vocab_size, width)
    yield from _linear(names.per_layer_projection, width, hidden, bias=False)
    yield from _norm(names.per_layer_norm, spec.size, stack.norm)
    for index in range(len(stack.layers)):
        prefix = names.layer.format(index)
        yield from _linear(f"{prefix}.{names.per_layer_gate}", spec.size, hidden, bias=False)
        yield from _linear(f"{prefix}.{names.per_layer_out}", hidden, spec.size, bias=False)
        yield from _norm(f"{prefix}.{names.per_layer_out_norm}", hidden, stack.norm)


def _attention(layer: str, names: Names, hidden: int, spec: AttentionSpec) -> Iterator[Named]:
    if spec.latent is not None:
        yield from _latent_attention(layer, names, hidden, spec, spec.latent)
        return
    width, kv_width = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    widths = (width, kv_width, kv_width) if len(names.qkv) == 3 else (width + 2 * kv_width,)
    parts = spec.parts if len(names.qkv) == 3 else 1
    for name, size, bias in zip(names.qkv[:parts], widths[:parts], spec.biases(parts), strict=True):
        yield from _linear(f"{layer}.{name}", size, hidden, bias=bias)
    for name in (*names.relative_qk, *([names.gate] if spec.gated else [])):
        yield from _linear(f"{layer}.{name}", width, hidden, bias=spec.qkv_bias)
    yield from _linear(f"{layer}.{names.attention_out}", hidden, width, bias=spec.out_bias)
    if spec.sinks:
        yield f"{layer}.{names.sinks}", (spec.num_heads,)
    if spec.qk_norm is not None and spec.qk_norm.weighted:
        of_keys = [(names.k_norm, spec.num_kv_heads)] if spec.reads is None else []
        for name, heads in ((names.q_norm, spec.num_heads), *of_keys):
            for one, shape in qk_norm_tensors(f"{layer}.{name}", heads, spec):
                yield f"{one}.weight", shape
                if spec.qk_norm.bias:
                    yield f"{one}.bias", shape


def _latent_attention(layer: str, names: Names, hidden: int, spec: AttentionSpec, latent: LatentSpec) -> Iterator[Named]:
    queries = spec.num_heads * spec.head_dim
    for name, size in zip(names.qkv, (latent.query_rank or queries, latent.rank + latent.rope_dim), strict=True):
        yield from _linear(f"{layer}.{name}", size, hidden, bias=spec.qkv_bias)
    if latent.query_rank is not None:
        yield from _norm(f"{layer}.{names.q_norm}", latent.query_rank, latent.norm)
        yield from _linear(f"{layer}.{names.q_up}", queries, latent.query_rank, bias=False)
    yield from _norm(f"{layer}.{names.k_norm}", latent.rank, latent.norm)
    yield from _linear(f"{layer}.{names.kv_up}", spec.num_heads * (latent.nope_dim + latent.value_dim), latent.rank, bias=False)
    yield from _linear(f"{layer}.{names.attention_out}", hidden, spec.value_width, bias=spec.out_bias)


def qk_norm_tensors(name: str, heads: int, spec: AttentionSpec) -> list[tuple[str, tuple[int, ...]]]:
    """Prefixes and shapes of the weights, and biases, of a norm over `heads` heads of queries or keys."""
    if spec.qk_norm_over == "head":
        return [(name, (spec.head_dim,))]
    if spec.qk_norm_over == "all":
        return [(name, (heads * spec.head_dim,))]
    return [(name.format(head), (spec.head_dim,)) for head in range(heads)] if "{}" in name else [(name, (heads, spec.head_dim))]


def _experts(layer: str, names: Names, hidden: int, spec: ExpertsSpec) -> Iterator[Named]:
    yield from _linear(f"{layer}.{names.router}", spec.count, hidden, bias=spec.routing.bias)
    if shape := correction_shape(spec.count, spec.routing):
        yield f"{layer}.{names.router_correction}", shape
    if spec.routing.norm is not None:
        yield f"{layer}.{names.router_norm}", (hidden,)
    if spec.routing.expert_scales:
        yield f"{layer}.{names.expert_scales}", (spec.count,)
    for number in range(spec.count):
        yield from expert_tensors(layer, names, hidden, spec, number)
    if spec.shared is not None:
        yield from _mlp(layer, names.shared_up, names.shared_down, hidden, spec.shared)
        if spec.shared_gate:
            yield from _linear(f"{layer}.{names.shared_gate}", 1, hidden, bias=False)


def correction_shape(experts: int, spec: RoutingSpec) -> tuple[int, ...]:
    """The shape of what is added to the scores of experts; empty: there is none."""
    return (1,) * (spec.correction - 1) + (experts,) if spec.correction else ()


def expert_tensors(layer: str, names: Names, hidden: int, spec: ExpertsSpec, number: int) -> Iterator[Named]:
    up = tuple(name.format(number) for name in names.expert_up)
    yield from _mlp(layer, up, names.expert_down.format(number), hidden, spec.each)


def _mlp(prefix: str, up: tuple[str, ...], down: str, hidden: int, spec: MLPSpec) -> Iterator[Named]:
    for name in up:
        yield from _linear(f"{prefix}.{name}", (1 + spec.gated) * spec.size // len(up), hidden, bias=spec.biases[0])
    yield from _linear(f"{prefix}.{down}", hidden, spec.size, bias=spec.biases[1])


def _classifier(spec: ClassifierSpec, stack: StackSpec, labels: int) -> Iterator[Named]:
    hidden = stack.output_size
    if spec.dense is not None:
        yield from _linear(spec.dense, hidden, hidden, bias=spec.dense_bias)
    yield from _norm(spec.norm or "", hidden, stack.norm)
    yield from _linear(spec.out, labels, hidden, bias=spec.out_bias)


def _linear(name: str, outs: int, ins: int, *, bias: bool) -> Iterator[Named]:
    yield f"{name}.weight", (outs, ins)
    if bias:
        yield f"{name}.bias", (outs,)


def _norm(name: str, size: int, spec: NormSpec) -> Iterator[Named]:
    if name:
        yield f"{name}.weight", (size,)
        if spec.bias:
            yield f"{name}.bias", (size,)
