"""Normalization layers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from infer.kernels.ops import Ops, Rows

from ..weights.parameter import Parameter


class RMSNorm:
    """Root-mean-square norm over the last dimension of `size` features. `quantize`: the result as quantized rows."""

    def __init__(self, ops: Ops, name: str, size: int, eps: float) -> None:
        self.ops = ops
        self.eps = eps
        self.weight = Parameter((f"{name}.weight", (size,)))

    def __call__(self, x: Rows, *, quantize: bool = False) -> Rows:
        return self.ops.rms_norm(x, self.weight.tensor, self.eps, quantize=quantize)

    def add(self, x: Rows, residual: Tensor, *, quantize: bool = False) -> tuple[Rows, Tensor]:
        """(norm(x + residual), x + residual)."""
        return self.ops.add_rms_norm(x, residual, self.weight.tensor, self.eps, quantize=quantize)

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight


class LayerNorm:
    """Mean and variance norm over the last dimension of `size` features. `quantize`: the result as quantized rows."""

    def __init__(self, ops: Ops, name: str, size: int, eps: float, *, bias: bool = True) -> None:
        self.ops = ops
        self.eps = eps
        self.weight = Parameter((f"{name}.weight", (size,)))
        self.bias = Parameter((f"{name}.bias", (size,))) if bias else None

    def __call__(self, x: Rows, *, quantize: bool = False) -> Rows:
        return self.ops.layer_norm(x, self.weight.tensor, self._bias, self.eps, quantize=quantize)

    def add(self, x: Rows, residual: Tensor, *, quantize: bool = False) -> tuple[Rows, Tensor]:
        """(norm(x + residual), x + residual). May overwrite both."""
        return self.ops.add_layer_norm(x, residual, self.weight.tensor, self._bias, self.eps, quantize=quantize)

    @property
    def _bias(self) -> Tensor | None:
        return self.bias.tensor if self.bias is not None else None

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight
        if self.bias is not None:
            yield self.bias
