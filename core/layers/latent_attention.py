"""Latent attention (MLA): causal over a paged cache that holds one latent a token for all heads.

Keys and values of a head are products of its weights with latents. These weights are multiplied into the head's query, and into what its
softmax gives of latents, instead (`LatentSpec`'s source calls them absorbed): attention is that of all heads over one vector a token.
Prompts go the same way as decodes, with about three times the arithmetic of keys and values made head by head, so that a token's bits
do not depend on how it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from infer.kernels.ops import AttentionConfig, AttentionMeta, KVCache, Ops, Rotation, Rows

from ..parallel.group import current
from ..parallel.sizes import share
from ..quant.base import unscaled
from ..quant.plain import Plain
from ..spec.names import Names
from ..spec.stack import AttentionSpec, KVSpec
from ..weights.cut import Cut
from ..weights.parameter import Parameter
from .linear import Linear, shared_in, shared_out
from .moe import multiply
from .norm import Norm
from .rope import Rope


class OfHead(Linear):
    """One head's part of a weight that holds all heads, in the model's dtype. The layer that reads the whole weight stores it here."""

    def __init__(self, ops: Ops, in_features: int, out_features: int) -> None:
        self.method = Plain(ops)
        self.weights = []
        self.out_features, self.in_features = out_features, in_features
        self.names, self.cuts, self.starts, self.pairs = (), None, (), {}
        self.group, self.by_input, self.adds_bias, self.bias = current(), False, True, None


class LatentAttention:
    """Hidden [N, size] -> [N, size]. Ranks share the heads, and each keeps all latents.

    Args:
        layer: checkpoint prefix of the layer.
    """

    def __init__(self, ops: Ops, layer: str, names: Names, hidden_size: int, spec: AttentionSpec, rope: Rope | None) -> None:
        assert spec.latent is not None
        assert rope is not None
        self.ops, self.rope, self.spec, self.latent = ops, rope, spec, spec.latent
        group, latent = current(), spec.latent
        heads = share(spec.num_heads, group.size)
        self.cache: KVSpec = spec.cache
        # The part that turns comes first, as kernels have it.
        self.config = AttentionConfig(heads, 1, self.cache.head_dim, spec.scale, latent=latent.rank)
        queries, kept = spec.num_heads * spec.head_dim, latent.rank + latent.rope_dim
        of_queries = shared_out(queries) if latent.query_rank is None else None
        cuts = [*of_queries, Cut(0, 0, kept)] if of_queries else None
        down = [f"{layer}.{name}" for name in names.qkv]
        self.qkv = Linear(ops, down, hidden_size, [latent.query_rank or queries, kept], bias=spec.qkv_bias, cuts=cuts)
        self.q_norm = self.q_up = None
        if latent.query_rank is not None:
            self.q_norm = Norm(ops, f"{layer}.{names.q_norm}", latent.query_rank, latent.norm)
            self.q_up = Linear(ops, [f"{layer}.{names.q_up}"], latent.query_rank, [queries], bias=False, cuts=shared_out(queries))
        self.k_norm = Norm(ops, f"{layer}.{names.k_norm}", latent.rank, latent.norm)
        self.k_ups = [OfHead(ops, latent.nope_dim, latent.rank) for _ in range(heads)]
        """From a head's query to latents' features."""
        self.v_ups = [OfHead(ops, latent.rank, latent.value_dim) for _ in range(heads)]
        ups = spec.num_heads * (latent.nope_dim + latent.value_dim)
        self.kv_up = Parameter((f"{layer}.{names.kv_up}.weight", (ups, latent.rank)), cuts=shared_out(ups), store=self._store)
        out = f"{layer}.{names.attention_out}"
        self.out = Linear(ops, [out], spec.value_width, [hidden_size], bias=spec.out_bias, cuts=shared_in(spec.value_width))

    def _store(self, weight: Tensor) -> None:
        """Takes the weight [heads * (nope_dim + value_dim), rank] from latents to this rank's keys and values."""
        sizes = [self.latent.nope_dim, self.latent.value_dim]
        for k_up, v_up, head in zip(self.k_ups, self.v_ups, weight.split(sum(sizes)), strict=True):
            of_key, of_value = head.split(sizes)
            k_up.method.store(of_key.t().contiguous())
            v_up.method.store(of_value.clone())

    def move(self, device: torch.device) -> None:
        """Nothing of it lies apart from weights and rotation."""

    def linears(self) -> Iterator[Linear]:
        yield self.qkv
        if self.q_up is not None:
            yield self.q_up
        yield from (*self.k_ups, *self.v_ups, self.out)

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.qkv, self.q_norm, self.q_up, self.k_norm, self.out):
            if part is not None:
                yield from part.parameters()
        yield self.kv_up

    def __call__(self, x: Rows, positions: Tensor, cache: KVCache, meta: AttentionMeta, rows: Tensor | None = None) -> Rows:
        """`rows` int64 [R]: the token rows whose result is wanted, [R, size]; None is all. All latents are stored."""
        latent, heads, adapters = self.latent, self.config.num_heads, meta.adapters
        down = unscaled(self.qkv(x, adapters))
        query, kept = down.split([down.shape[1] - latent.rank - latent.rope_dim, latent.rank + latent.rope_dim], dim=1)
        if self.q_norm is not None and self.q_up is not None:
            query = unscaled(self.q_up(self.q_norm(query.contiguous(), quantize=self.q_up.method.quantizes_input), adapters))
        query = query.unflatten(1, (heads, -1))
        whole = query.new_empty(len(query), heads + 1, self.config.head_dim)
        turning, still = whole.split([latent.rope_dim, latent.rank], dim=2)
        turning[:, :heads], turning[:, heads] = query[..., latent.nope_dim :], kept[:, latent.rank :]
        still[:, :heads] = by_head(self.k_ups, query[..., : latent.nope_dim])
        still[:, heads] = unscaled(self.k_norm(kept[:, : latent.rank].contiguous()))
        rotation = Rotation(positions, self.rope.cos, self.rope.sin)
        seen = self.ops.attention(
            self.ops.rope_and_store(whole.flatten(1), rotation, None, cache, meta, self.config), cache, meta, self.config
        )
        if rows is not None:
            seen, adapters = seen[rows], None if adapters is None else adapters.chosen
        return self.out(by_head(self.v_ups, seen.unflatten(1, (heads, -1))).flatten(1), adapters)


def by_head(layers: Sequence[Linear], x: Tensor) -> Tensor:
    """Rows x [N, H, in] of each head by its layer -> [N, H, out]."""
    count, heads, width = x.shape
    starts = torch.arange(heads + 1, device=x.device) * count
    product = unscaled(multiply(layers, x.transpose(0, 1).reshape(heads * count, width), starts))
    return product.view(heads, count, layers[0].out_features).transpose(0, 1)
