"""Self-attention: causal over the paged cache, or in both directions within each text."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from infer.kernels.ops import AttentionConfig, AttentionMeta, HeadNorm, KVCache, Ops, Rotation, Rows, Segments

from ..parallel.group import current
from ..parallel.sizes import kv_share, share
from ..weights.cut import Cut
from ..weights.parameter import Parameter
from .linear import Linear, shared_in, shared_out, summed
from .norm import RMSNorm
from .rope import Rope


class Attention:
    """Causal, grouped-query, over the paged cache: hidden [N, size] -> [N, size].

    Args:
        name: checkpoint prefix ("model.layers.0.self_attn").
        qk_norm: RMSNorm of every query and key head before rotation (Qwen3), with this epsilon.
        sliding_window: how many positions a token sees, itself included; None is all.
    """

    def __init__(
        self,
        ops: Ops,
        name: str,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        rope: Rope,
        *,
        scale: float,
        qkv_bias: bool,
        o_bias: bool,
        qk_norm: float | None,
        sliding_window: int | None,
    ) -> None:
        self.ops = ops
        self.group = group = current()
        first_kv, held_kv = kv_share(num_kv_heads, group.rank, group.size)
        self.config = AttentionConfig(share(num_heads, group.size), held_kv, head_dim, scale, sliding_window)
        self.rope = rope
        width, kv_width = num_heads * head_dim, num_kv_heads * head_dim
        kv_cut = Cut(0, first_kv * head_dim, (first_kv + held_kv) * head_dim)
        out = shared_out(width)
        qkv_cuts = None if out is None else [*out, kv_cut, kv_cut]
        heads = [f"{name}.{p}_proj" for p in "qkv"]
        self.qkv = Linear(ops, heads, hidden_size, [width, kv_width, kv_width], bias=qkv_bias, cuts=qkv_cuts)
        self.out = Linear(ops, [f"{name}.o_proj"], width, [hidden_size], bias=o_bias, cuts=shared_in(width))
        self.q_norm = RMSNorm(ops, f"{name}.q_norm", head_dim, qk_norm) if qk_norm is not None else None
        self.k_norm = RMSNorm(ops, f"{name}.k_norm", head_dim, qk_norm) if qk_norm is not None else None

    def __call__(self, x: Rows, positions: Tensor, cache: KVCache, meta: AttentionMeta, rows: Tensor | None = None) -> Rows:
        """`rows` int64 [R]: the token rows whose result is wanted, [R, size]; None is all. All keys and values are stored."""
        norm = None
        if self.q_norm is not None and self.k_norm is not None:
            norm = HeadNorm(self.q_norm.weight.tensor, self.k_norm.weight.tensor, self.q_norm.eps)
        rotation = Rotation(positions, self.rope.cos, self.rope.sin)
        query = self.ops.rope_and_store(self.qkv(x), rotation, norm, cache, meta, self.config)
        seen = self.ops.attention(query, cache, meta, self.config)
        return summed(self.out(seen if rows is None else seen[rows]), self.group)

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.qkv, self.out, self.q_norm, self.k_norm):
            if part is not None:
                yield from part.parameters()


class SegmentAttention:
    """In both directions, within each text: hidden [N, size] -> [N, size].

    Args:
        qkv: checkpoint prefixes of queries, keys and values, or of one layer that is all three in this order.
        out: checkpoint prefix.
        rope: None: positions are no matter of attention.
        sliding_window: w: a token sees those less than w away on either side; None is all.
    """

    def __init__(
        self,
        ops: Ops,
        qkv: list[str],
        out: str,
        hidden_size: int,
        num_heads: int,
        head_dim: int,
        rope: Rope | None,
        *,
        bias: bool,
        sliding_window: int | None,
    ) -> None:
        self.ops = ops
        self.config = AttentionConfig(num_heads, num_heads, head_dim, head_dim**-0.5, sliding_window)
        self.rope = rope
        width = num_heads * head_dim
        self.qkv = Linear(ops, qkv, hidden_size, [3 * width // len(qkv)] * len(qkv), bias=bias)
        self.out = Linear(ops, [out], width, [hidden_size], bias=bias)

    def __call__(self, x: Rows, positions: Tensor, segments: Segments, rows: Tensor | None = None) -> Rows:
        """`rows` int64 [R]: the token rows whose result is wanted, [R, size]; None is all."""
        rotation = Rotation(positions, self.rope.cos, self.rope.sin) if self.rope is not None else None
        seen = self.ops.segment_attention(self.qkv(x), rotation, segments, self.config)
        return self.out(seen if rows is None else seen.index_select(0, rows))

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.qkv, self.out):
            yield from part.parameters()
