"""Normalization layers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from infer.kernels.ops import Ops

from ..weights.parameter import Parameter


class RMSNorm:
    """Root-mean-square norm over the last dimension of `size` features."""

    def __init__(self, ops: Ops, name: str, size: int, eps: float) -> None:
        self.ops = ops
        self.eps = eps
        self.weight = Parameter((f"{name}.weight", (size,)))

    def __call__(self, x: Tensor) -> Tensor:
        return self.ops.rms_norm(x, self.weight.tensor, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual)."""
        return self.ops.add_rms_norm(x, residual, self.weight.tensor, self.eps)

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight
