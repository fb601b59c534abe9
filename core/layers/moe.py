"""A mixture of experts: a router chooses some feed-forward parts for each token, and their results are weighed and added.

What a token gets depends on its own row alone, bit for bit: every expert multiplies its rows padded to a multiple of ROW_MULTIPLE, as
all multiplications here; equal scores go to the lower expert; and a row's sums run over its experts in the order of their scores.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, Ops, Rows

from ..parallel.group import current
from ..quant.base import unscaled
from ..quant.plain import Plain
from ..spec.model_spec import ExpertsSpec, MLPSpec
from ..spec.names import Names
from ..weights.parameter import Parameter
from .linear import Linear
from .mlp import MLP


class Experts:
    """Each expert is shared by all ranks as any feed-forward part is; the router, which every rank has whole, is never quantized."""

    quantizes_input = False

    def __init__(self, ops: Ops, layer: str, names: Names, hidden_size: int, spec: ExpertsSpec) -> None:
        self.spec = spec
        self.group = current()
        self.router = Linear(ops, [f"{layer}.{names.router}"], hidden_size, [spec.count], bias=False, method=Plain(ops))
        one = MLPSpec(size=spec.size, activation=spec.activation)
        prefixes = [f"{layer}.{names.expert.format(number)}" for number in range(spec.count)]
        self.experts = [MLP(ops, [f"{prefix}.{up}" for up in names.up], f"{prefix}.{names.down}", hidden_size, one) for prefix in prefixes]

    def __call__(self, x: Rows) -> Rows:
        assert isinstance(x, Tensor), "asked for without quantization"
        chosen, weights = self._routes(x)
        # Pairs of (row, place among its experts), expert by expert.
        order = chosen.flatten().argsort(stable=True)
        counts = chosen.flatten().bincount(minlength=self.spec.count).tolist()
        results = x.new_empty(chosen.numel(), x.shape[1])
        for expert, pairs in zip(self.experts, order.split(counts), strict=True):
            if len(pairs):
                rows = F.pad(x[pairs // self.spec.per_token], (0, 0, 0, -len(pairs) % ROW_MULTIPLE))
                results[pairs] = unscaled(expert.part(rows))[: len(pairs)]
        by_row = results.view(len(x), self.spec.per_token, -1)
        total = by_row[:, 0].float() * weights[:, :1]
        for place in range(1, self.spec.per_token):
            total += by_row[:, place].float() * weights[:, place : place + 1]
        summed = total.to(x.dtype)
        return summed if self.group.size == 1 else self.group.all_reduce(summed)

    def _routes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row its experts int64 [N, K], the likeliest first, and their weights float32 [N, K], which are 1 together."""
        scores, order = unscaled(self.router(x)).float().sort(dim=-1, descending=True, stable=True)
        scores, chosen = scores[:, : self.spec.per_token], order[:, : self.spec.per_token]
        weights = torch.exp(scores - scores[:, :1])
        total = weights[:, 0].clone()
        for place in range(1, self.spec.per_token):
            total += weights[:, place]
        return chosen, weights / total[:, None]

    def linears(self) -> Iterator[Linear]:
        yield self.router
        for expert in self.experts:
            yield from expert.linears()

    def parameters(self) -> Iterator[Parameter]:
        for linear in self.linears():
            yield from linear.parameters()
