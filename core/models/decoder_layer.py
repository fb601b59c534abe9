"""A layer of a decoder stack, with all that an architecture's file may name of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from infer.kernels.layer import WholeLayer
from infer.kernels.lora import AdapterRows
from infer.kernels.ops import AttentionMeta, KVCache, Ops, Rows, ScaledRows

from ..layers.attention import Attention
from ..layers.beside import ExpertsBeside
from ..layers.cross_attention import CrossAttention
from ..layers.latent_attention import LatentAttention
from ..layers.linear import Linear
from ..layers.norm import Norm
from ..layers.per_layer import PerLayerGate
from ..layers.rope import Ropes
from ..quant.base import scaled, unscaled
from ..spec.stack import StackSpec
from ..weights.parameter import Parameter
from .layer import Layer
from .whole_layer import whole_layer

#: Tensors [slots, ...] of one layer, one for each of its states.
Pools = Sequence[Tensor]


class LayerMemory(NamedTuple):
    """What a layer keeps of earlier tokens."""

    cache: KVCache | None
    """Of a layer that attends."""
    pools: Pools = ()
    """Of one that keeps states."""


class Hidden(NamedTuple):
    """What one layer gives the next, of all rows of a step."""

    x: Rows | None
    """What is still to be added to the residual; None: nothing."""
    residual: Tensor


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
        others = (self.mixer, self.cross, self.beside, self.per_layer, self.factor)
        self._may_be_whole = self.pre_norm and not self.parallel and not self.adds_to_normed and self.scale == 1 and others == (None,) * 5
        self._whole: WholeLayer | None = None

    def prepare(self, dtype: torch.dtype) -> None:
        """Finds out if it is computed in one call, once weights and tables are where they will stay. `dtype` is that of rows."""
        self._whole = whole_layer(self, dtype) if self._may_be_whole else None

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
        if self._whole is not None and meta.adapters is None and positions.dim() == 1:
            assert memory.cache is not None
            return self._whole(x, residual, positions, memory.cache, meta, rows)
        if not self.pre_norm:
            assert x is None, "sums are normed"
            read = self.ops.quantize(residual) if self._mixing_quantizes else residual
            if self.cross is not None:
                return self._crossed_post_norm(read, residual, positions, memory, meta, rows)
            attended = self._mixed(read, positions, memory, meta, rows)
            residual = residual if rows is None else residual.index_select(0, rows)
            return None, self.post_norm(attended, residual, adapter_rows(meta, rows))
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
                x = x if rows is None else chosen_rows(x, rows)
        elif rows is not None and x is not None:
            x = chosen_rows(x, rows)
        if rows is not None:
            residual = residual.index_select(0, rows)
        if self.mlp is None:
            assert x is not None, "a layer has one part at least"
            return x, residual
        normed, residual = self._read(self.mlp_norm, x, residual, quantize=self.mlp.quantizes_input)
        made = self.mlp(normed, adapter_rows(meta, rows))
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
            crossed, attended = chosen_rows(crossed, rows), attended.index_select(0, rows)
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
            return norm_of_sum(norm, x, residual, quantize=quantize)
        normed, _ = norm_of_sum(norm, x, residual, quantize=False)
        assert isinstance(normed, Tensor), "asked for without quantization"
        return self.ops.quantize(normed) if quantize else normed, normed

    def _parallel(
        self, x: Rows | None, residual: Tensor, positions: Tensor, memory: LayerMemory, meta: AttentionMeta, rows: Tensor | None
    ) -> tuple[Rows, Tensor]:
        assert self.mlp is not None, "two parts are parallel"
        quantize = self._mixing_quantizes and (self.mlp_norm is not None or self.mlp.quantizes_input)
        normed, residual = norm_of_sum(self.attention_norm, x, residual, quantize=quantize)
        mixed = unscaled(self._mixed(normed, positions, memory, meta, rows))
        if rows is not None:
            residual, normed = residual.index_select(0, rows), chosen_rows(normed, rows)
        if self.mlp_norm is not None:
            normed = self.mlp_norm(residual, quantize=self.mlp.quantizes_input)
        return self._out(mixed.add_(unscaled(self.mlp(normed, adapter_rows(meta, rows)))), None), residual

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


def norm_of_sum(norm: Norm | None, x: Rows | None, residual: Tensor, *, quantize: bool) -> tuple[Rows, Tensor]:
    """(norm(x + residual), x + residual), and without a norm x + residual twice. May overwrite both."""
    if norm is not None:
        return norm.add(x, residual, quantize=quantize)
    total = residual if x is None else residual + unscaled(x)
    return total, total


def adapter_rows(meta: AttentionMeta, rows: Tensor | None) -> AdapterRows | None:
    """The rows with an adapter, of all or of those that are wanted."""
    return meta.adapters if meta.adapters is None or rows is None else meta.adapters.chosen


def chosen_rows(x: Rows, rows: Tensor) -> Rows:
    return ScaledRows(x.values[rows], x.scale[rows]) if isinstance(x, ScaledRows) else x[rows]
