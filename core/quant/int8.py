"""int8: weights with a scale an output feature, activations quantized token by token as they come."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from infer.kernels.ops import Ops, Rows

from .base import LinearMethod


class Int8(LinearMethod):
    quantizes_input = True

    @classmethod
    def refusal(cls, ops: Ops) -> str:
        if ops.supports_int8():
            return ""
        return "the CPU has no exact int8 dot products (VNNI or AMX), so sums could saturate; leave it out, or use kernels=reference (slow)"

    def store(self, weight: Tensor) -> None:
        self._dtype = weight.dtype
        self._weight: Any = self.ops.pack_int8(weight)

    def apply(self, x: Rows, bias: Tensor | None) -> Rows:
        rows = self.ops.quantize(x) if isinstance(x, Tensor) else x
        return self.ops.linear_int8(rows, self._weight, bias, self._dtype)
