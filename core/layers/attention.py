"""Self-attention: causal over the paged cache, or in both directions within each text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import AttentionConfig, AttentionMeta, HeadNorm, KVCache, Ops, Rotation, Rows, ScaledRows, Segments
from infer.kernels.reference.rope import rotated

from ..parallel.group import current
from ..parallel.sizes import kv_share, share
from ..quant.base import scaled, unscaled
from ..spec.names import Names
from ..spec.stack import AttentionSpec, KVSpec
from ..weights.cut import Cut
from ..weights.parameter import Parameter
from .linear import Linear, shared_in, shared_out
from .norm import Norm
from .qk_norm import QKNorm
from .relative import Relative
from .rope import Rope


class _Projections:
    """The linear layers around attention. Ranks share the heads.

    Args:
        layer: checkpoint prefix of the layer.
        rope: None: positions are no matter of attention.
    """

    def __init__(self, ops: Ops, layer: str, names: Names, hidden_size: int, spec: AttentionSpec, rope: Rope | None) -> None:
        self.ops = ops
        self.rope = rope
        group = current()
        first_kv, held_kv = kv_share(spec.num_kv_heads, group.rank, group.size)
        heads = share(spec.num_heads, group.size)
        slopes = torch.tensor(spec.slopes[group.rank * heads : (group.rank + 1) * heads]) if spec.slopes else None
        self.config = AttentionConfig(heads, held_kv, spec.head_dim, spec.scale, spec.window, spec.soft_cap, slopes)
        width, kv_width = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        outs = [width, kv_width, kv_width][: spec.parts] if len(names.qkv) == 3 else [width + 2 * kv_width]
        made = list(names.qkv[: spec.parts])
        cuts = None
        if queries := shared_out(width):
            assert len(names.qkv) == 3, "ranks share heads, which one layer for all three does not keep together"
            held = Cut(0, first_kv * spec.head_dim, (first_kv + held_kv) * spec.head_dim)
            cuts = [*queries, held, held][: spec.parts]
        if spec.gated:
            made, outs, cuts = [*made, names.gate], [*outs, width], None if cuts is None else [*cuts, cuts[0]]
        self.qkv = Linear(ops, [f"{layer}.{name}" for name in made], hidden_size, outs, bias=spec.biases(len(made)), cuts=cuts)
        out = f"{layer}.{names.attention_out}"
        self.out = Linear(ops, [out], width, [hidden_size], bias=spec.out_bias, cuts=shared_in(width))
        self.sinks: Parameter | None = None
        if spec.sinks:
            of_rank = [Cut(0, group.rank * heads, (group.rank + 1) * heads)] if group.size > 1 else None
            self.sinks = Parameter(
                (f"{layer}.{names.sinks}", (spec.num_heads,)), cuts=of_rank, dtype=torch.float32, store=self._store_sinks
            )
        self.spec = spec
        self.head_norms: list[Norm] = []
        """Those that kernels have: of each head, with weights for all, before rotation."""
        self.norms: list[QKNorm] = []
        """Others, of queries and keys."""
        q_norm, k_norm = f"{layer}.{names.q_norm}", f"{layer}.{names.k_norm}"
        if spec.qk_norm is not None and (spec.qk_norm_over != "head" or spec.qk_norm.centered or spec.norm_after_rotation):
            self.norms.append(QKNorm(ops, q_norm, spec.num_heads, (group.rank * heads, heads), spec))
            self.norms.append(QKNorm(ops, k_norm, spec.num_kv_heads, (first_kv, held_kv), spec))
        elif spec.qk_norm is not None:
            normed = (q_norm, k_norm) if spec.reads is None else (q_norm,)
            self.head_norms = [Norm(ops, name, spec.head_dim, spec.qk_norm) for name in normed]

    def _store_sinks(self, sinks: Tensor) -> None:
        self.config = replace(self.config, sinks=sinks)

    def rotation(self, positions: Tensor) -> Rotation | None:
        """`positions`: int64 [N], or [3, N] in three parts."""
        if positions.dim() == 2 and self.rope is not None:
            return Rotation(torch.arange(positions.shape[1], device=positions.device), *self.rope.of_grid(positions))
        return None if self.rope is None else Rotation(positions, self.rope.cos, self.rope.sin)

    def move(self, device: torch.device) -> None:
        """Makes slopes lie on the device of the steps."""
        if self.config.alibi_slopes is not None:
            self.config = replace(self.config, alibi_slopes=self.config.alibi_slopes.to(device))

    def linears(self) -> Iterator[Linear]:
        yield from (self.qkv, self.out)

    def parameters(self) -> Iterator[Parameter]:
        for linear in (self.qkv, self.out):
            yield from linear.parameters()
        for norm in self.head_norms:
            yield from norm.parameters()
        for wide in self.norms:
            yield from wide.parameters()
        if self.sinks is not None:
            yield self.sinks


class Attention(_Projections):
    """Causal, grouped-query, over the paged cache: hidden [N, size] -> [N, size]."""

    @property
    def is_plain(self) -> bool:
        """True if kernels do all that is between the two linear layers."""
        spec = self.spec
        unusual = (spec.gated, spec.values_are_keys, spec.reads, spec.clip, spec.value_norm, spec.growth)
        grows = self.rope is not None and self.rope.config.query_growth
        return all(one is None or one is False for one in unusual) and not self.norms and not grows and spec.out_scale == 1

    @property
    def cache(self) -> KVSpec:
        """The keys and values that this rank keeps."""
        return KVSpec(self.config.num_kv_heads, self.config.head_dim)

    def __call__(self, x: Rows, positions: Tensor, cache: KVCache, meta: AttentionMeta, rows: Tensor | None = None) -> Rows:
        """`rows` int64 [R]: the token rows whose result is wanted, [R, size]; None is all. All keys and values are stored."""
        norm = None
        if self.head_norms:
            of_query, of_key = self.head_norms[0], self.head_norms[-1]
            norm = HeadNorm(of_query.weight, of_key.weight, of_query.spec.eps)
        adapters = meta.adapters
        made, gate = self._made(x, adapters)
        qkv, rotation = self._prepared(self._whole(made), self.rotation(positions))
        query = self.ops.rope_and_store(qkv, rotation, norm, cache, meta, self.stored)
        if self.rope is not None and self.rope.query_scale is not None:
            query.mul_(self.rope.query_scale[positions][:, None, None])
        if self.spec.growth is not None:
            floor, scale = self.spec.growth
            query.mul_(((positions + 1) / floor).floor_().log1p_().mul_(scale).add_(1)[:, None, None])
        seen = self.ops.attention(query, cache, meta, self.config)
        if rows is not None:
            seen, gate = seen[rows], None if gate is None else gate[rows]
            adapters = None if adapters is None else adapters.chosen
        let_through: Rows = seen
        if gate is not None:
            quantize = self.out.method.quantizes_input
            let_through = self.ops.gated_activation(torch.cat([gate, seen], dim=1), "sigmoid", quantize=quantize)
        return scaled(self.out(let_through, adapters), self.spec.out_scale)

    def _made(self, x: Rows, adapters: AdapterRows | None) -> tuple[Rows, Tensor | None]:
        """Queries, keys and values, and the gate."""
        if not self.spec.gated:
            return self.qkv(x, adapters), None
        width = self.config.num_heads * self.config.head_dim
        made = self.qkv.plain(x, adapters)
        return made[:, :-width], made[:, -width:]

    @property
    def stored(self) -> AttentionConfig:
        """The heads that `qkv` gives: without keys and values where those of another layer are read."""
        return self.config if self.spec.reads is None else replace(self.config, num_kv_heads=0)

    def _whole(self, qkv: Rows) -> Rows:
        """With values that are what keys are made of."""
        if not self.spec.values_are_keys or self.spec.reads is not None:
            return qkv
        width = self.config.num_heads * self.config.head_dim
        values = qkv.values if isinstance(qkv, ScaledRows) else qkv
        values = torch.cat([values, values[:, width:]], dim=1)
        return qkv._replace(values=values) if isinstance(qkv, ScaledRows) else values

    def _prepared(self, qkv: Rows, rotation: Rotation | None) -> tuple[Rows, Rotation | None]:
        """The steps that kernels leave out: queries, keys and values normed, then clipped; and the rotation that is left."""
        norms_values = self.spec.value_norm is not None and self.spec.reads is None
        if self.spec.clip is None and not self.norms and not norms_values:
            return qkv, rotation
        x, c = unscaled(qkv), self.config
        parts = x.split([c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim], dim=1)
        for norm, part in zip(self.norms, parts, strict=False):
            if self.spec.norm_after_rotation and rotation is not None:
                part.copy_(rotated(part.float().unflatten(1, (-1, c.head_dim)), rotation).flatten(1))
            part.copy_(norm(part))
        if self.spec.value_norm is not None and norms_values:
            heads = parts[2].reshape(-1, c.head_dim)
            ones = torch.ones(c.head_dim, dtype=x.dtype, device=x.device)
            parts[2].copy_(unscaled(self.ops.rms_norm(heads, ones, self.spec.value_norm.eps)).view_as(parts[2]))
        if self.spec.clip is not None:
            x = x.clamp_(-self.spec.clip, self.spec.clip)
        return x, None if self.norms and self.spec.norm_after_rotation else rotation


class SegmentAttention(_Projections):
    """In both directions, within each text: hidden [N, size] -> [N, size].

    Args:
        relative: what it knows of distances between tokens; None: nothing.
    """

    def __init__(
        self, ops: Ops, layer: str, names: Names, hidden_size: int, spec: AttentionSpec, rope: Rope | None, relative: Relative | None = None
    ) -> None:
        super().__init__(ops, layer, names, hidden_size, spec, rope)
        self.relative = relative

    def allocate(self, device: torch.device) -> None:
        """Prepares for texts, once weights are there."""
        self.move(device)
        if self.relative is not None:
            self.relative.allocate(self.qkv)

    def linears(self) -> Iterator[Linear]:
        yield from super().linears()
        if self.relative is not None:
            yield from self.relative.linears()

    def parameters(self) -> Iterator[Parameter]:
        yield from super().parameters()
        if self.relative is not None:
            yield from self.relative.parameters()

    def __call__(self, x: Rows, positions: Tensor, segments: Segments, rows: Tensor | None = None) -> Rows:
        """`rows` int64 [R]: the token rows whose result is wanted, [R, size]; None is all."""
        adapters = segments.adapters
        qkv = self._normed(self.qkv(x, adapters))
        bias = segments.unseen if self.relative is None else self.relative.bias(qkv, segments)
        seen = self.ops.segment_attention(qkv, self.rotation(positions), segments, self.config, bias)
        if rows is not None:
            seen, adapters = seen.index_select(0, rows), None if adapters is None else adapters.chosen
        return self.out(seen, adapters)

    def _normed(self, qkv: Rows) -> Rows:
        """With a norm of each query and key head."""
        if not self.head_norms:
            return qkv
        x, c = unscaled(qkv), self.config
        parts = x.split([c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.head_dim], dim=1)
        for norm, part in zip(self.head_norms, parts, strict=False):
            part.copy_(unscaled(norm(part.reshape(-1, c.head_dim))).view_as(part))
        return x
