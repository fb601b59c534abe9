"""Experts beside a feed-forward part: the sum of both, each behind a norm of its own."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from infer.kernels.ops import Ops, Rows

from ..quant.base import unscaled
from ..spec.names import Names
from ..spec.stack import ExpertsSpec, NormSpec
from ..weights.parameter import Parameter
from .linear import Linear
from .moe import Experts
from .norm import Norm


class ExpertsBeside:
    """Experts read the hidden states that the part reads, through a norm of their own, and their router reads them as they are:
    norm(made) + norm(experts(norm(residual))), of what the part has made and hidden states, [N, size] each -> [N, size]."""

    def __init__(self, ops: Ops, layer: str, names: Names, hidden_size: int, spec: ExpertsSpec, norm: NormSpec) -> None:
        def own(name: str) -> Norm:
            return Norm(ops, f"{layer}.{name}", hidden_size, norm)

        self.part_norm, self.norm, self.out_norm = (
            own(name) for name in (names.beside_experts_norm, names.experts_norm, names.experts_out_norm)
        )
        self.experts = Experts(ops, layer, names, hidden_size, spec)

    def __call__(self, made: Rows, residual: Tensor) -> Tensor:
        of_experts = unscaled(self.out_norm(self.experts(self.norm(residual), routed=residual)))
        return unscaled(self.part_norm(made)).add_(of_experts)

    def linears(self) -> Iterator[Linear]:
        yield from self.experts.linears()

    def parameters(self) -> Iterator[Parameter]:
        for part in (self.part_norm, self.norm, self.experts, self.out_norm):
            yield from part.parameters()
