"""The router of a mixture of experts: from a token's hidden state to its experts and their weights.

Its scores are float32 whatever the model's dtype is: small differences decide. What a row gets depends on it alone, bit for bit: sums run
in an order of their own, and equal scores go to the lower expert, or to the lower group of experts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from infer.kernels.ops import Ops

from ..quant.base import unscaled
from ..quant.plain import InFloat32
from ..spec.names import Names
from ..spec.stack import RoutingSpec
from ..spec.tensors import correction_shape
from ..weights.parameter import Parameter
from .linear import Linear


class Router:
    """Every rank has it whole, and it is never quantized."""

    weights: Tensor
    """Of the norm of what it reads."""

    def __init__(self, ops: Ops, layer: str, names: Names, hidden_size: int, experts: int, spec: RoutingSpec) -> None:
        self.spec = spec
        self.linear = Linear(ops, [f"{layer}.{names.router}"], hidden_size, [experts], bias=spec.bias, method=InFloat32(ops))
        shape = correction_shape(experts, spec)
        self.correction = Parameter((f"{layer}.{names.router_correction}", shape), dtype=torch.float32) if shape else None
        self.norm = self.expert_scales = None
        if spec.norm is not None:
            self.norm = Parameter((f"{layer}.{names.router_norm}", (hidden_size,)), dtype=torch.float32, store=self._store_norm)
        if spec.expert_scales:
            self.expert_scales = Parameter((f"{layer}.{names.expert_scales}", (experts,)), dtype=torch.float32)

    def _store_norm(self, weights: Tensor) -> None:
        self.weights = weights * len(weights) ** -0.5

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row of x [N, hidden_size] its experts int64 [N, K], the best first, and their weights float32 [N, K]."""
        if self.spec.norm is not None:
            x = unscaled(self.linear.method.ops.rms_norm(x, self.weights, self.spec.norm.eps))
        return self.choice(unscaled(self.linear(x)))

    def choice(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the router's own numbers, float32 [N, experts]."""
        spec = self.spec
        scores = _scores(numbers, spec.scores)
        to_choose = scores if self.correction is None else scores + self.correction.tensor.flatten()
        if spec.groups > 1:
            to_choose = _within_groups(to_choose, spec)
        chosen = to_choose.sort(dim=-1, descending=True, stable=True).indices[:, : spec.per_token]
        weights = scores.gather(1, chosen)
        if spec.scores == "chosen":
            weights = torch.exp(weights - weights[:, :1])
            weights = weights / row_sum(weights)
        if spec.normalized:
            weights = weights / (row_sum(weights) + spec.added_to_sum).clamp_(min=spec.smallest_sum)
        if self.expert_scales is not None:
            weights = weights * self.expert_scales.tensor[chosen]
        return chosen, weights if spec.scale == 1 else weights * spec.scale

    def parameters(self) -> Iterator[Parameter]:
        yield from self.linear.parameters()
        for parameter in (self.correction, self.norm, self.expert_scales):
            if parameter is not None:
                yield parameter


def row_sum(x: Tensor) -> Tensor:
    """[N, 1] of x [N, K], in an order that K alone decides: by halves."""
    while (width := x.shape[1]) > 1:
        half = width // 2
        folded = x[:, :half] + x[:, half : 2 * half]
        if width % 2:
            folded[:, :1] += x[:, -1:]
        x = folded
    return x


def _scores(numbers: Tensor, kind: str) -> Tensor:
    if kind == "sigmoid":
        return 1 / (1 + torch.exp(-numbers))
    if kind == "softmax":
        powers = torch.exp(numbers - numbers.amax(-1, keepdim=True))
        return powers / row_sum(powers)
    return numbers


def _within_groups(scores: Tensor, spec: RoutingSpec) -> Tensor:
    """The scores of those in the best groups; minus infinity for others."""
    grouped = scores.unflatten(1, (spec.groups, -1))
    best = grouped.sort(dim=-1, descending=True).values[:, :, : spec.group_by]
    of_group = row_sum(best.flatten(0, 1)).view(len(scores), spec.groups)
    out = of_group.sort(dim=-1, descending=True, stable=True).indices[:, spec.groups_chosen :]
    masked = torch.zeros_like(of_group, dtype=torch.bool).scatter_(1, out, True)
    return grouped.masked_fill(masked[:, :, None], -torch.inf).flatten(1)
