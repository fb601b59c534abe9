"""Grouped-query self-attention over the paged cache."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from infer.kernels.ops import AttentionMeta, KVCache, Ops

from ..weights.parameter import Parameter
from .linear import Linear
from .norm import RMSNorm
from .rope import Rope


class Attention:
    """hidden [N, size] -> [N, size].

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
        self.head_dim = head_dim
        self.widths = [num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim]
        self.rope = rope
        self.scale = scale
        self.sliding_window = sliding_window
        self.qkv = Linear(ops, [f"{name}.{p}_proj" for p in "qkv"], hidden_size, self.widths, bias=qkv_bias)
        self.out = Linear(ops, [f"{name}.o_proj"], num_heads * head_dim, [hidden_size], bias=o_bias)
        self.q_norm = RMSNorm(ops, f"{name}.q_norm", head_dim, qk_norm) if qk_norm is not None else None
        self.k_norm = RMSNorm(ops, f"{name}.k_norm", head_dim, qk_norm) if qk_norm is not None else None

    def __call__(self, x: Tensor, positions: Tensor, cache: KVCache, meta: AttentionMeta) -> Tensor:
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in self.qkv(x).split(self.widths, dim=-1))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q = self.ops.rope(q, positions, self.rope.cos, self.rope.sin)
        k = self.ops.rope(k, positions, self.rope.cos, self.rope.sin)
        self.ops.store_kv(k, v, cache, meta)
        return self.out(self.ops.attention(q, cache, meta, self.scale, self.sliding_window).flatten(1))

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.qkv, self.out, self.q_norm, self.k_norm):
            if part is not None:
                yield from part.parameters()
