"""The decoder stack that most language models share, of the parts that an architecture's file names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import AttentionMeta, KVCache, Ops, Rows, ScaledRows

from ..layers.attention import Attention
from ..layers.beside import ExpertsBeside
from ..layers.cross_attention import CrossAttention
from ..layers.embedding import Embedding, GivenEmbeds
from ..layers.latent_attention import LatentAttention
from ..layers.linear import Linear, shared_out
from ..layers.norm import Norm
from ..layers.per_layer import PerLayerGate, PerLayerVectors
from ..layers.relative import Distances
from ..layers.rope import Ropes
from ..layers.sinusoids import Sinusoids
from ..parallel.group import current
from ..quant.base import scaled, unscaled
from ..quant.choice import HEAD, chosen
from ..spec.distances import DistanceSpec
from ..spec.mixers import StateSpec
from ..spec.stack import KVSpec, StackSpec
from ..weights.parameter import Parameter
from .chunks import chunked, narrowed
from .layer import Layer

#: Tensors [slots, ...] of one layer, one for each of its states.
Pools = Sequence[Tensor]


class LayerMemory(NamedTuple):
    """What a layer keeps of earlier tokens."""

    cache: KVCache | None
    """Of a layer that attends."""
    pools: Pools = ()
    """Of one that keeps states."""


#: Layers that keep nothing of a token compute only the rows that are wanted, if they are so many times fewer than all.
FEW = 4


class DecoderLayer(Layer):
    """x + attention(norm(x)), then x + mlp(norm(x)); or both of one x (`StackSpec.parallel`); or norms of sums (`StackSpec.pre_norm`
    false). The residual is carried beside the activations.

    Beside attention or in its place there may be what keeps states, and either half may be missing. Where the architecture has norms of
    what is added, they come before that; where it has none before a part, there is none. `rows` int64 [R]: the only rows that are wanted
    of this layer; keys, values and states are stored of all.
    """

    attention: Attention | LatentAttention | None

    def __init__(self, ops: Ops, stack: StackSpec, index: int, ropes: Ropes) -> None:
        super().__init__(ops, stack, index)
        spec = stack.layers[index].attention
        prefix = stack.names.layer.format(index)
        self.parallel, self.scale = stack.parallel, stack.residual_scale
        self.pre_norm, self.adds_to_normed = stack.pre_norm, stack.adds_to_normed
        self.attention = None
        if spec is not None:
            kind = Attention if spec.latent is None else LatentAttention
            self.attention = kind(ops, prefix, stack.names, stack.hidden_size, spec, ropes.of(spec.rope))
        self.cross = None
        if (crossing := stack.layers[index].cross) is not None:
            self.cross = CrossAttention(ops, prefix, stack.names, stack.hidden_size, crossing)
            self.cross_norm = Norm(ops, f"{prefix}.{stack.names.cross_norm}", stack.hidden_size, stack.norm)
        self.beside = self.per_layer = None
        if (experts := stack.layers[index].experts) is not None:
            self.beside = ExpertsBeside(ops, prefix, stack.names, stack.hidden_size, experts, stack.norm)
        if stack.per_layer is not None:
            self.per_layer = PerLayerGate(ops, prefix, stack.names, stack.hidden_size, stack.per_layer, stack.norm)
        self.factor = Parameter((f"{prefix}.{stack.names.layer_scale}", (1,))) if stack.names.layer_scale else None

    def __call__(
        self,
        x: Rows | None,
        residual: Tensor,
        positions: Tensor,
        memory: LayerMemory,
        meta: AttentionMeta,
        rows: Tensor | None,
        vectors: Tensor | None = None,
    ) -> tuple[Rows | None, Tensor]:
        """Takes what is still to be added (None: nothing) and the residual it is to be added to; returns the same two.

        `vectors` [N, size]: the tokens' per-layer embeddings.
        """
        if not self.pre_norm:
            assert x is None, "sums are normed"
            read = self.ops.quantize(residual) if self._mixing_quantizes else residual
            if self.cross is not None:
                return self._crossed_post_norm(read, residual, positions, memory, meta, rows)
            attended = self._mixed(read, positions, memory, meta, rows)
            residual = residual if rows is None else residual.index_select(0, rows)
            return None, self.post_norm(attended, residual, _adapters(meta, rows))
        added, residual = self._parts(x, residual, positions, memory, meta, rows)
        if self.per_layer is None and self.factor is None:
            return added, residual
        residual = residual + unscaled(added)
        if self.per_layer is not None and vectors is not None:
            residual += self.per_layer(residual, vectors if rows is None else vectors.index_select(0, rows))
        return None, residual if self.factor is None else residual.mul_(self.factor.tensor)

    def _parts(
        self, x: Rows | None, residual: Tensor, positions: Tensor, memory: LayerMemory, meta: AttentionMeta, rows: Tensor | None
    ) -> tuple[Rows, Tensor]:
        """Attention and feed-forward part."""
        if self.parallel:
            return self._parallel(x, residual, positions, memory, meta, rows)
        if self.mixes:
            normed, residual = self._read(self.attention_norm, x, residual, quantize=self._mixing_quantizes)
            own = rows if self.cross is None else None
            x = self._out(self._mixed(normed, positions, memory, meta, own), self.attention_out_norm)
            if self.cross is not None:
                normed, residual = self._read(self.cross_norm, x, residual, quantize=self.cross.quantizes_input)
                x = self._crossed(self.cross, normed, memory, meta)
                x = x if rows is None else _chosen(x, rows)
        elif rows is not None and x is not None:
            x = _chosen(x, rows)
        if rows is not None:
            residual = residual.index_select(0, rows)
        if self.mlp is None:
            assert x is not None, "a layer has one part at least"
            return x, residual
        normed, residual = self._read(self.mlp_norm, x, residual, quantize=self.mlp.quantizes_input)
        made = self.mlp(normed, _adapters(meta, rows))
        return self._out(made if self.beside is None else self.beside(made, residual), self.mlp_out_norm), residual

    @staticmethod
    def _crossed(cross: CrossAttention, normed: Rows, memory: LayerMemory, meta: AttentionMeta) -> Rows:
        """What attention to the encoder gives."""
        assert memory.cache is not None
        assert meta.cross is not None, "a step of a model with an encoder"
        return cross(normed, memory.cache, meta.cross)

    def _crossed_post_norm(
        self, read: Rows, residual: Tensor, positions: Tensor, memory: LayerMemory, meta: AttentionMeta, rows: Tensor | None
    ) -> tuple[None, Tensor]:
        """`Layer.post_norm` with attention to the encoder between the two parts."""
        assert self.cross is not None
        assert self.attention_norm is not None, "post-norm"
        attended, _ = self.attention_norm.add(self._mixed(read, positions, memory, meta, None), residual)
        attended = unscaled(attended)
        crossed = self._crossed(self.cross, self.ops.quantize(attended) if self.cross.quantizes_input else attended, memory, meta)
        if rows is not None:
            crossed, attended = _chosen(crossed, rows), attended.index_select(0, rows)
        return None, self.post_norm(crossed, attended, None, norm=self.cross_norm)

    @property
    def _mixing_quantizes(self) -> bool:
        """All that reads what the first norm gives takes quantized rows."""
        attention = self.attention is None or self.attention.qkv.method.quantizes_input
        return attention and (self.mixer is None or self.mixer.quantizes_input)

    def _mixed(self, normed: Rows, positions: Tensor, memory: LayerMemory, meta: AttentionMeta, rows: Tensor | None) -> Rows:
        """What attention and the mixer give, added where there are both."""
        attended = mixed = None
        if self.attention is not None:
            assert memory.cache is not None
            attended = self.attention(normed, positions, memory.cache, meta, rows)
        if self.mixer is not None:
            mixed = self.mixer(normed, memory.pools, meta.states, rows)
        if attended is None or mixed is None:
            made = mixed if attended is None else attended
            assert made is not None, "a layer that mixes"
            return made
        return unscaled(attended) + unscaled(mixed)

    def _read(self, norm: Norm | None, x: Rows | None, residual: Tensor, *, quantize: bool) -> tuple[Rows, Tensor]:
        """What a part reads, and what is added to: the sum, or that normed too."""
        if not self.adds_to_normed:
            return _normed(norm, x, residual, quantize=quantize)
        normed, _ = _normed(norm, x, residual, quantize=False)
        assert isinstance(normed, Tensor), "asked for without quantization"
        return self.ops.quantize(normed) if quantize else normed, normed

    def _parallel(
        self, x: Rows | None, residual: Tensor, positions: Tensor, memory: LayerMemory, meta: AttentionMeta, rows: Tensor | None
    ) -> tuple[Rows, Tensor]:
        assert self.mlp is not None, "two parts are parallel"
        quantize = self._mixing_quantizes and (self.mlp_norm is not None or self.mlp.quantizes_input)
        normed, residual = _normed(self.attention_norm, x, residual, quantize=quantize)
        mixed = unscaled(self._mixed(normed, positions, memory, meta, rows))
        if rows is not None:
            residual, normed = residual.index_select(0, rows), _chosen(normed, rows)
        if self.mlp_norm is not None:
            normed = self.mlp_norm(residual, quantize=self.mlp.quantizes_input)
        return self._out(mixed.add_(unscaled(self.mlp(normed, _adapters(meta, rows)))), None), residual

    def linears(self) -> Iterator[Linear]:
        yield from super().linears()
        for part in (self.cross, self.beside, self.per_layer):
            if part is not None:
                yield from part.linears()

    def parameters(self) -> Iterator[Parameter]:
        yield from super().parameters()
        for part in (self.cross, None if self.cross is None else self.cross_norm, self.beside, self.per_layer):
            if part is not None:
                yield from part.parameters()
        if self.factor is not None:
            yield self.factor

    def _out(self, x: Rows, norm: Norm | None) -> Rows:
        """What is to be added of what a part gives."""
        return scaled(x if norm is None else norm(x), self.scale)


def _normed(norm: Norm | None, x: Rows | None, residual: Tensor, *, quantize: bool) -> tuple[Rows, Tensor]:
    """(norm(x + residual), x + residual), and without a norm x + residual twice. May overwrite both."""
    if norm is not None:
        return norm.add(x, residual, quantize=quantize)
    total = residual if x is None else residual + unscaled(x)
    return total, total


def _adapters(meta: AttentionMeta, rows: Tensor | None) -> AdapterRows | None:
    """The rows with an adapter, of all or of those that are wanted."""
    return meta.adapters if meta.adapters is None or rows is None else meta.adapters.chosen


def _chosen(x: Rows, rows: Tensor) -> Rows:
    return ScaledRows(x.values[rows], x.scale[rows]) if isinstance(x, ScaledRows) else x[rows]


class Decoder:
    """A causal language model: tokens in, hidden states and logits out. Weights are filled by `weights.loader`."""

    def __init__(self, stack: StackSpec, ops: Ops) -> None:
        names, hidden = stack.names, stack.hidden_size
        self.stack = stack
        self.ops = ops
        self.vocab_size, self.hidden_size = stack.vocab_size, stack.output_size
        self.ropes = Ropes()
        self.embedding = Embedding(names.words, stack.vocab_size, stack.embedding_size or hidden)
        self.projection = self.output_projection = None
        if stack.embedding_size is not None:
            size = stack.embedding_size
            self.projection = Linear(ops, [names.embedding_projection], size, [hidden], bias=not stack.projects_back)
            if stack.projects_back:
                self.output_projection = Linear(ops, [names.output_projection], hidden, [size], bias=False)
        self.positions: Embedding | Sinusoids | None = None
        if stack.sinusoids:
            self.positions = Sinusoids(stack.num_positions, hidden, stack.sinusoids)
        elif stack.num_positions:
            self.positions = Embedding(names.positions, stack.num_positions, hidden)
        self.distances = Distances(stack, stack.relative) if isinstance(stack.relative, DistanceSpec) else None
        self.embedding_norm = Norm(ops, names.embedding_norm, hidden, stack.norm) if names.embedding_norm else None
        self.per_layer = PerLayerVectors(ops, stack, stack.per_layer) if stack.per_layer is not None else None
        self.layers = [DecoderLayer(ops, stack, index, self.ropes) for index in range(len(stack.layers))]
        self.visit: Callable[[Sequence[DecoderLayer]], Iterable[DecoderLayer]] = iter
        """Gives the layers one by one: each may be used until the next is asked for."""
        self.norm = Norm(ops, names.final_norm, hidden, stack.norm) if names.final_norm else None
        # A tied weight is held twice, plain to look up and packed to multiply by.
        head = names.words if stack.tie_embeddings else names.head
        self.group = current()
        cuts, method = shared_out(stack.vocab_size), chosen(ops, HEAD)
        self.head = Linear(ops, [head], stack.output_size, [stack.vocab_size], bias=False, cuts=cuts, method=method)
        self.head_bias = Parameter((f"{names.head}.bias", (stack.vocab_size,)), dtype=torch.float32) if stack.head_bias else None
        if stack.logits_bias:
            self.head_bias = Parameter((names.logits_bias, (1, stack.vocab_size)), dtype=torch.float32)

    @property
    def caches(self) -> tuple[KVSpec, ...]:
        """The KV cache entries that this rank keeps of a token: one for each layer that does not read another's."""
        shared = self.stack.shared_layers
        attending = [(index, layer.attention) for index, layer in enumerate(self.layers) if layer.attention is not None]
        own = [(index, one.cache) for index, one in attending if one.spec.reads is None]
        return tuple(replace(cache, layer=index if index in shared else None) for index, cache in own)

    @property
    def states(self) -> tuple[tuple[StateSpec, ...], ...]:
        """What this rank keeps of a sequence, for each layer that keeps states."""
        return tuple(layer.mixer.states for layer in self.layers if layer.mixer is not None)

    def allocate(self, num_positions: int, device: torch.device) -> None:
        """Prepares for sequences of so many tokens."""
        self.ropes.allocate(num_positions, device)
        for layer in self.layers:
            if layer.attention is not None:
                layer.attention.move(device)
        if self.distances is not None:
            table = self.distances.causal(num_positions, device)
            for layer in self.layers:
                assert isinstance(layer.attention, Attention), "distances are of plain attention"
                layer.attention.config = replace(layer.attention.config, distances=table)

    def parameters(self) -> Iterator[Parameter]:
        yield from self.body_parameters()
        yield from self.head.parameters()
        if self.head_bias is not None:
            yield self.head_bias

    def body_parameters(self) -> Iterator[Parameter]:
        """All but the head's: what hidden states need."""
        ends = (self.projection, self.output_projection, self.norm)
        for part in (self.embedding, self.positions, self.distances, self.embedding_norm, self.per_layer, *self.layers, *ends):
            if part is not None:
                yield from part.parameters()

    def linears(self) -> Iterator[Linear]:
        """Every linear layer but the head. Each may be used until the next is asked for."""
        for linear in (self.projection, self.output_projection, None if self.per_layer is None else self.per_layer.projection):
            if linear is not None:
                yield linear
        for layer in self.visit(self.layers):
            yield from layer.linears()

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        caches: list[KVCache],
        meta: AttentionMeta,
        rows: Tensor | None = None,
        pools: Sequence[Pools] = (),
        given: GivenEmbeds | None = None,
    ) -> Tensor:
        """Hidden states [R, hidden_size] after the last layer and the final norm.

        Args:
            tokens, positions: int64 [N], N a multiple of ROW_MULTIPLE unless the model `takes_any_rows`; positions may be [3, N], in time,
                height and width.
            caches: one for each of `self.caches`; the step's keys and values are stored in them.
            rows: int64 [R], the rows that are wanted, R like N; None is all. The last layer
                computes no others.
            pools: one for each of `self.states`.
            given: embeddings of some tokens, whose ids say nothing.
        """
        plans: dict[tuple[int, int, int | None], Any] = {}
        metas: dict[int | None, AttentionMeta] = {None: meta}
        x: Rows | None = None
        residual = self.embedded(tokens, positions, given, meta.adapters)
        ends = _adapters(meta, rows)  # of the rows that come out
        vectors = None if self.per_layer is None else self.per_layer(tokens, residual)
        of_layers = self._memory(caches, pools)
        few = rows is not None and len(rows) * FEW <= len(tokens)
        for index, (layer, memory) in enumerate(zip(self.visit(self.layers), of_layers, strict=True)):
            if few and index == self.stack.first_reader and rows is not None:  # nothing of other rows is read any more
                meta, (plans, metas) = narrowed(meta, positions, rows), ({}, {})
                residual, positions = residual[rows], positions[rows]
                x, vectors = None if x is None else _chosen(x, rows), None if vectors is None else vectors[rows]
                rows = None
            if not len(residual):
                continue
            seen = meta
            if layer.attention is not None:
                config, chunk = layer.attention.config, layer.attention.spec.chunk
                if chunk not in metas:
                    metas[chunk] = meta if chunk is None else chunked(meta, chunk)
                seen, kind = metas[chunk], (config.num_heads, config.num_kv_heads, chunk)
                if kind not in plans:
                    plans[kind] = self.ops.plan_attention(seen, config.num_heads, config.num_kv_heads)
                seen.plan = plans[kind]
            own = None if vectors is None else vectors[:, index]
            x, residual = layer(x, residual, positions, memory, seen, rows if layer is self.layers[-1] else None, own)
            if given is not None and layer is not self.layers[-1]:
                given.add_after(index, residual)
        hidden, _ = _normed(self.norm, x, residual, quantize=False)
        return unscaled(hidden if self.output_projection is None else self._projected(self.output_projection, hidden, ends))

    def _memory(self, caches: list[KVCache], pools: Sequence[Pools]) -> list[LayerMemory]:
        """What each layer reads and writes of earlier tokens."""
        left = iter(pools)
        return [
            LayerMemory(None if place is None else caches[place], () if layer.mixer is None else next(left))
            for layer, place in zip(self.layers, self.stack.cache_places, strict=True)
        ]

    def _projected(self, linear: Linear, x: Rows, adapters: AdapterRows | None) -> Tensor:
        assert isinstance(x, Tensor), "asked for without quantization"
        return unscaled(linear(self.ops.quantize(x) if linear.method.quantizes_input else x, adapters))

    def embedded(self, tokens: Tensor, positions: Tensor, given: GivenEmbeds | None = None, adapters: AdapterRows | None = None) -> Tensor:
        words = self.embedding(tokens, adapters)
        if given is not None and self.stack.scales_given:
            given.put(words)
        if self.stack.embedding_scale != 1:  # rounded to the model's dtype first, as the model was trained
            words *= torch.tensor(self.stack.embedding_scale, dtype=words.dtype)
        if given is not None and not self.stack.scales_given:
            given.put(words)
        if self.projection is not None:
            words = self._projected(self.projection, words, adapters)
        if self.positions is not None:
            words.add_(self.positions(positions + self.stack.first_position))
        return words if self.embedding_norm is None else unscaled(self.embedding_norm(words))

    def logits(self, hidden: Tensor, adapters: AdapterRows | None = None) -> Tensor:
        """Logits [R, vocab_size], in the model's dtype, of hidden states [R, hidden_size]; R like N of `forward`.

        Where ranks share the model, rank 0 gets them; what the others get means nothing.
        """
        logits = self.group.gather(unscaled(self.head(hidden, adapters)))[:, : self.vocab_size]
        if self.head_bias is not None and self.group.rank == 0:
            logits = (logits.float() + self.head_bias.tensor).to(logits.dtype)
        if self.stack.logits_scale != 1:
            logits = logits * self.stack.logits_scale
        cap = self.stack.logits_soft_cap
        return logits if cap is None else logits.float().div_(cap).tanh_().mul_(cap).to(logits.dtype)
