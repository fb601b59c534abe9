"""Norms of queries and keys that span other features than one head with weights for all: see `AttentionSpec.qk_norm_over`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from infer.kernels.ops import Ops

from ..parallel.group import current
from ..spec.stack import AttentionSpec
from ..spec.tensors import qk_norm_tensors
from ..weights.cut import Cut
from ..weights.parameter import Parameter


class QKNorm:
    """The norm of one rank's query heads, or of its key heads: x [N, heads * D] -> the same, in x's dtype.

    Args:
        name: checkpoint prefix.
        heads: of all ranks.
        held: (first, count) of this rank's.
    """

    def __init__(self, ops: Ops, name: str, heads: int, held: tuple[int, int], spec: AttentionSpec) -> None:
        assert spec.qk_norm is not None
        assert not spec.qk_norm.bias or spec.qk_norm_over == "head", "no other norm of queries and keys has one"
        self.ops, self.spec, self.dim = ops, spec.qk_norm, spec.head_dim
        self.over, self.heads, self.count = spec.qk_norm_over, heads, held[1]
        self.group = current()
        first, count = held
        parts = [(f"{one}.weight", shape) for one, shape in qk_norm_tensors(name, heads, spec)]
        cuts: list[Cut | None] | None = None
        if self.over == "own" and len(parts) > 1:  # a tensor a head
            parts = parts[first : first + count]
        elif self.over != "head":
            unit = spec.head_dim if self.over == "all" else 1
            cuts = [Cut(0, first * unit, (first + count) * unit)] if count < heads else None
        self.parameter = Parameter(*parts, cuts=cuts, dtype=torch.float32, store=self._store) if self.spec.weighted else None
        self.bias = Parameter((f"{name}.bias", (self.dim,)), dtype=torch.float32) if spec.qk_norm.bias else None
        self.weight = self._ones = torch.ones(self.dim)

    def _store(self, weight: Tensor) -> None:
        self.weight = (weight + self.spec.offset).flatten()
        self._ones = torch.ones(self.weight.shape[0] if self.over == "all" else self.dim, device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        x32 = x.float().contiguous()
        if self.over == "all":
            return self._over_all(x32).to(x.dtype)
        by_head = x32.view(-1, self.dim)
        if self._ones.device != x.device:  # there are no weights that would have brought it there
            self.weight = self._ones = self._ones.to(x.device)
        norm = self.ops.layer_norm(by_head, self._ones, None, self.spec.eps) if self.spec.centered else None
        normed = norm if norm is not None else self.ops.rms_norm(by_head, self._ones, self.spec.eps)
        assert isinstance(normed, Tensor), "asked for without quantization"
        weight = self.weight.repeat(self.count) if self.over == "head" else self.weight
        normed = normed.view(x.shape) * weight
        return (normed if self.bias is None else normed + self.bias.tensor.repeat(self.count)).to(x.dtype)

    def _over_all(self, x32: Tensor) -> Tensor:
        assert not self.spec.centered, "no model has means over all heads"
        if self.count == self.heads:
            normed = self.ops.rms_norm(x32, self.weight, self.spec.eps)
            assert isinstance(normed, Tensor), "asked for without quantization"
            return normed
        # Every rank has the squares of its own heads.
        squares = self.group.all_reduce(x32.square().sum(-1, keepdim=True)) / (self.heads * self.dim)
        return x32 * torch.rsqrt(squares + self.spec.eps) * self.weight

    def parameters(self) -> Iterator[Parameter]:
        if self.parameter is not None:
            yield self.parameter
        if self.bias is not None:
            yield self.bias
