"""Attention of a decoder to what its encoder gives, whose keys and values are made once and kept in blocks of the paged cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from infer.kernels.ops import AttentionConfig, AttentionMeta, KVCache, Ops, Rows

from ..quant.base import unscaled
from ..spec.names import Names
from ..spec.stack import AttentionSpec
from ..weights.parameter import Parameter
from .linear import Linear


class CrossAttention:
    """hidden [N, size] -> [N, size], of every row over all tokens of its sequence's encoder input. No positions, no order.

    Each row is a sequence of one query to the kernels: what is causal sees all of a context that ends with it.

    Args:
        layer: checkpoint prefix of the layer.
    """

    def __init__(self, ops: Ops, layer: str, names: Names, hidden_size: int, spec: AttentionSpec) -> None:
        self.ops = ops
        self.config = AttentionConfig(spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.scale)
        width, kv_width = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
        query, key, value = (f"{layer}.{name}" for name in names.cross_qkv)
        self.query = Linear(ops, [query], hidden_size, [width], bias=spec.qkv_bias)
        self.kv = Linear(ops, [key, value], hidden_size, [kv_width, kv_width], bias=spec.biases(3)[1:])
        self.out = Linear(ops, [f"{layer}.{names.cross_out}"], width, [hidden_size], bias=spec.out_bias)

    def store(self, encoded: Rows, cache: KVCache, meta: AttentionMeta) -> None:
        """Keeps keys and values of the encoder's hidden states [N, size], at the slots of `meta`."""
        made = unscaled(self.kv(encoded))
        queries = made.new_zeros(made.shape[0], self.config.num_heads * self.config.head_dim)  # the kernel takes all three
        self.ops.rope_and_store(torch.cat([queries, made], dim=1), None, None, cache, meta, self.config)

    def __call__(self, x: Rows, cache: KVCache, meta: AttentionMeta) -> Rows:
        """`meta`: each row as a sequence, over the blocks of the encoder's tokens."""
        query = unscaled(self.query(x)).unflatten(1, (self.config.num_heads, self.config.head_dim))
        seen: Tensor = self.ops.attention(query, cache, meta, self.config)
        return self.out(seen)

    @property
    def quantizes_input(self) -> bool:
        """See `LinearMethod.quantizes_input`."""
        return self.query.method.quantizes_input

    def linears(self) -> Iterator[Linear]:
        yield from (self.query, self.kv, self.out)

    def parameters(self) -> Iterator[Parameter]:
        for linear in self.linears():
            yield from linear.parameters()
