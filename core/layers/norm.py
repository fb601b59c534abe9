"""Normalization layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows

from ..spec.stack import NormSpec
from ..weights.parameter import Parameter


class Norm:
    """Root-mean-square norm over the last dimension of `size` features, or one of mean and variance (`spec.centered`).

    `quantize`: the result as quantized rows.
    """

    def __init__(self, ops: Ops, name: str, size: int, spec: NormSpec) -> None:
        self.ops = ops
        self.spec = spec
        # A sum of weight and offset has more digits than a narrow dtype holds.
        dtype = torch.float32 if spec.offset else None
        self.parameter = Parameter((f"{name}.weight", (size,)), dtype=dtype, store=self._store)
        self.bias = Parameter((f"{name}.bias", (size,)), dtype=dtype) if spec.bias else None
        self.weight = torch.empty(0)

    def _store(self, weight: Tensor) -> None:
        self.weight = weight + self.spec.offset if self.spec.offset else weight

    def __call__(self, x: Rows, *, quantize: bool = False) -> Rows:
        if self.spec.centered:
            return self.ops.layer_norm(x, self.weight, self._bias, self.spec.eps, quantize=quantize)
        return self.ops.rms_norm(x, self.weight, self.spec.eps, quantize=quantize)

    def add(self, x: Rows | None, residual: Tensor, *, quantize: bool = False) -> tuple[Rows, Tensor]:
        """(norm(x + residual), x + residual); x None is 0. May overwrite both."""
        if x is None:
            return self(residual, quantize=quantize), residual
        if self.spec.centered:
            return self.ops.add_layer_norm(x, residual, self.weight, self._bias, self.spec.eps, quantize=quantize)
        return self.ops.add_rms_norm(x, residual, self.weight, self.spec.eps, quantize=quantize)

    @property
    def _bias(self) -> Tensor | None:
        return self.bias.tensor if self.bias is not None else None

    def parameters(self) -> Iterator[Parameter]:
        yield self.parameter
        if self.bias is not None:
            yield self.bias
