"""Distances between tokens as attention knows them: numbers added to the scores of pairs, of one learned table for all layers or for each.

See spec/stack.py for what each kind is, and its source. Buckets are counted in float32, as transformers counts them: near the
border of two the rounding decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.ops import KEYS_AHEAD, ROW_MULTIPLE, Ops, PairBias, Rows, Segments

from ..quant.base import unscaled
from ..quant.plain import Plain
from ..spec.distances import DisentangledSpec, DistanceSpec
from ..spec.stack import AttentionSpec, StackSpec
from ..weights.parameter import Parameter
from .linear import Linear
from .norm import Norm


class Relative(Protocol):
    """One layer's."""

    def bias(self, qkv: Rows, segments: Segments) -> PairBias:
        """What is added to the scores of tokens with these queries, keys and values."""

    def allocate(self, qkv: Linear) -> None:
        """Makes what needs the weights of the layer's queries and keys."""

    def linears(self) -> Iterator[Linear]:
        """Those that each step needs."""

    def parameters(self) -> Iterator[Parameter]:
        """The layer's own."""


class Distances:
    """A number for each head and distance, the same in all layers, or those of one."""

    def __init__(self, stack: StackSpec, spec: DistanceSpec, layer: int = 0) -> None:
        self.spec, heads = spec, stack.layers[layer].need_attention().num_heads
        self.weight = Parameter((f"{stack.names.relative.format(layer)}.weight", (spec.buckets, heads)), dtype=torch.float32)
        self._values = self._place = torch.empty(0)

    def allocate(self, num_positions: int, device: torch.device) -> None:
        """Makes the table by distance, of texts of so many tokens."""
        distances = torch.arange(1 - num_positions, num_positions)
        of_each = self.weight.tensor.cpu()[distance_buckets(distances, self.spec)]  # [2 * num_positions - 1, H]
        self._values = of_each.T.contiguous().flatten().to(device)
        self._place = torch.tensor([[num_positions - 1, len(distances), -1]], device=device)

    def causal(self, num_positions: int, device: torch.device) -> Tensor:
        """`AttentionConfig.distances` of contexts of up to so many tokens."""
        of_each = self.weight.tensor.cpu()[distance_buckets(torch.arange(1 - num_positions, 1), self.spec)]  # [num_positions, H]
        return F.pad(of_each.T, (0, KEYS_AHEAD)).contiguous().to(device)

    def of_layer(self, index: int) -> Relative:
        return _OneLayers(self)

    def bias(self, segments: Segments) -> PairBias:
        return PairBias(self._values, self._place.repeat(len(segments.starts) - 1, 1))

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight


class _OneLayers:
    def __init__(self, distances: Distances) -> None:
        self._distances = distances

    def bias(self, qkv: Rows, segments: Segments) -> PairBias:
        return self._distances.bias(segments)

    def allocate(self, qkv: Linear) -> None:
        pass

    def linears(self) -> Iterator[Linear]:
        yield from ()

    def parameters(self) -> Iterator[Parameter]:
        yield from ()


class LayerDistances:
    """The same with numbers of its own for each layer (UMT5's, arXiv 2304.09151)."""

    def __init__(self, stack: StackSpec, spec: DistanceSpec) -> None:
        self.each = [Distances(stack, spec, index) for index in range(len(stack.layers))]

    def allocate(self, num_positions: int, device: torch.device) -> None:
        for one in self.each:
            one.allocate(num_positions, device)

    def causal(self, num_positions: int, device: torch.device) -> list[Tensor]:
        """Each layer's, see `Distances.causal`."""
        return [one.causal(num_positions, device) for one in self.each]

    def of_layer(self, index: int) -> Relative:
        return self.each[index].of_layer(index)

    def parameters(self) -> Iterator[Parameter]:
        for one in self.each:
            yield from one.parameters()


class DistanceEmbedding:
    """A vector for each bucket of distances, of which every layer makes queries and keys."""

    def __init__(self, ops: Ops, stack: StackSpec, spec: DisentangledSpec) -> None:
        self.ops, self.stack, self.spec = ops, stack, spec
        self.weight = Parameter((f"{stack.names.relative}.weight", (2 * spec.span, stack.hidden_size)))
        name = stack.names.relative_norm
        self.norm = Norm(ops, name, stack.hidden_size, stack.norm) if name else None
        self._buckets = self._pairs = torch.empty(0, 0)
        self._laid_out: tuple[Segments, list[int], Tensor] | None = None

    def allocate(self, num_positions: int, device: torch.device) -> None:
        """Prepares for texts of so many tokens."""
        self._buckets = disentangled_buckets(torch.arange(1 - num_positions, num_positions), self.spec).to(device)

    def rows(self) -> Tensor:
        """[2 * span, hidden_size], padded to a multiple of ROW_MULTIPLE."""
        rows = F.pad(self.weight.tensor, (0, 0, 0, -2 * self.spec.span % ROW_MULTIPLE))
        return rows if self.norm is None else unscaled(self.norm(rows))

    def pairs(self, size: int) -> Tensor:
        """int64 [size, size]: the bucket of query position i and key position j."""
        if size > len(self._pairs):
            places = torch.arange(size, device=self._buckets.device)
            self._pairs = self._buckets[places[:, None] - places + len(self._buckets) // 2]
        return self._pairs[:size, :size]

    def layout(self, segments: Segments) -> tuple[list[int], Tensor]:
        """Where each text's rows begin, and T; and the places of its table [H, n, n], one behind the other. The same in all layers."""
        if self._laid_out is None or self._laid_out[0] is not segments:
            starts = segments.starts.long()
            lens = starts.diff()
            sizes = lens * lens
            at = self.stack.layers[0].need_attention().num_heads * (sizes.cumsum(0) - sizes)
            self._laid_out = segments, starts.tolist(), torch.stack([at, sizes, lens], 1)
        return self._laid_out[1:]

    def of_layer(self, index: int) -> Relative:
        return Disentangled(self, self.stack.names.layer.format(index), self.stack.layers[index].need_attention())

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight
        if self.norm is not None:
            yield from self.norm.parameters()


class Disentangled:
    """One layer's queries and keys of distances, and the products of tokens with them.

    Those of one head are one multiplication of a fixed weight, so that a row's bits are its own.
    """

    def __init__(self, embedding: DistanceEmbedding, prefix: str, spec: AttentionSpec) -> None:
        self.embedding, self.spec = embedding, spec
        ops, names, self._kind = embedding.ops, embedding.stack.names, embedding.spec
        self._own: list[Linear] = []
        width = spec.num_heads * spec.head_dim
        for name in names.relative_qk:
            self._own.append(Linear(ops, [f"{prefix}.{name}"], embedding.stack.hidden_size, [width], bias=spec.qkv_bias))

        def products() -> list[Linear]:
            one = [f"{prefix}.distances"], spec.head_dim, [2 * self._kind.span]
            return [Linear(ops, *one, bias=False, method=Plain(ops)) for _ in range(spec.num_heads)]

        self._of_keys = products() if self._kind.by_query else []
        """Tokens' queries with distances' keys."""
        self._of_queries = products() if self._kind.by_key else []

    def allocate(self, qkv: Linear) -> None:
        rows, width = self.embedding.rows(), self.spec.num_heads * self.spec.head_dim
        count = 2 * self._kind.span
        if self._own:
            made = [unscaled(linear(rows)) for linear in self._own]
        else:
            made = list(unscaled(qkv(rows))[:, : 2 * width].split(width, dim=1))
        query, key = made
        for products, of in ((self._of_keys, key), (self._of_queries, query)):
            for product, head in zip(products, of[:count].unflatten(1, (-1, self.spec.head_dim)).unbind(1), strict=False):
                product.method.store(head.contiguous())

    def bias(self, qkv: Rows, segments: Segments) -> PairBias:
        """(query . distance's key + distance's query . key) * scale of each pair, in float32."""
        heads, dim = self.spec.num_heads, self.spec.head_dim
        query, key = unscaled(qkv)[:, : 2 * heads * dim].unflatten(1, (2, heads, dim)).permute(1, 2, 0, 3).contiguous()
        by_query = _products(self._of_keys, query)
        by_key = _products(self._of_queries, key)
        starts, places = self.embedding.layout(segments)
        tables = []
        for start, stop in pairwise(starts):
            pairs = self.embedding.pairs(stop - start)
            table = torch.zeros(heads, *pairs.shape, dtype=torch.float32, device=pairs.device)
            if by_query is not None:
                table += by_query[:, start:stop].gather(2, pairs.expand(table.shape))
            if by_key is not None:  # whose rows are the keys'
                table += by_key[:, start:stop].gather(2, pairs.T.expand(table.shape)).transpose(1, 2)
            tables.append(table.mul_(self.spec.scale).flatten())
        return PairBias(torch.cat(tables), places)

    def linears(self) -> Iterator[Linear]:
        yield from self._of_keys
        yield from self._of_queries

    def parameters(self) -> Iterator[Parameter]:
        for linear in self._own:
            yield from linear.parameters()


def _products(of_heads: list[Linear], x: Tensor) -> Tensor | None:
    """x [H, N, D] with each head's weight -> [H, N, buckets]."""
    return torch.stack([unscaled(product(head)) for product, head in zip(of_heads, x, strict=True)]) if of_heads else None


def relative_of(ops: Ops, stack: StackSpec) -> Distances | LayerDistances | DistanceEmbedding | None:
    """What the layers of a stack know of distances, if they do."""
    if isinstance(stack.relative, DisentangledSpec):
        return DistanceEmbedding(ops, stack, stack.relative)
    return distances_of(stack)


def distances_of(stack: StackSpec) -> Distances | LayerDistances | None:
    """The numbers of distances, of a stack that has some."""
    if not isinstance(stack.relative, DistanceSpec):
        return None
    return LayerDistances(stack, stack.relative) if stack.relative.per_layer else Distances(stack, stack.relative)


def distance_buckets(distance: Tensor, spec: DistanceSpec) -> Tensor:
    """The bucket of each distance, int64: key's position - query's."""
    half = spec.buckets if spec.causal else spec.buckets // 2
    exact = half // 2
    away = distance.abs()
    grown = torch.log(away.float() / exact) / math.log(spec.max_distance / exact) * (half - exact)
    far = (exact + grown.clamp(min=0).long()).clamp(max=half - 1)
    return torch.where(away < exact, away, far) + half * (distance > 0)


def disentangled_buckets(distance: Tensor, spec: DisentangledSpec) -> Tensor:
    """The row of the table for each distance, int64: query's position - key's."""
    if spec.buckets:
        middle = spec.buckets // 2
        away = distance.abs().clamp(min=middle)
        grown = torch.log(away / middle) / torch.log(torch.tensor((spec.max_distance - 1) / middle)) * (middle - 1)
        far = (torch.ceil(grown) + middle) * distance.sign()
        distance = torch.where(distance.abs() <= middle, distance, far.long())
    return (distance + spec.span).clamp(0, 2 * spec.span - 1)
