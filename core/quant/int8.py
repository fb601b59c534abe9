"""int8: weights with a scale an output feature, activations quantized token by token as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import Ops, Rows

from .base import LinearMethod


class Int8(LinearMethod):
    quantizes_input = True

    @classmethod
    def refusal(cls, ops: Ops) -> str:
        if ops.supports_int8():
            return ""
        return "the int8 sums of this torch's oneDNN are not exact on this CPU; leave it out, or use kernels=reference (slow)"

    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        return out_features * (in_features + torch.float32.itemsize)

    def apply(self, x: Rows, bias: Tensor | None) -> Rows:
        rows = self.ops.quantize(x) if isinstance(x, Tensor) else x
        return self.ops.linear_int8(rows, self._weight, bias, self._dtype)

    def apply_gated(self, x: Rows, bias: Tensor | None, kind: str, *, quantize: bool) -> Rows:
        rows = self.ops.quantize(x) if isinstance(x, Tensor) else x
        return self.ops.linear_int8_gated(rows, self._weight, bias, kind, self._dtype, quantize=quantize)

    @classmethod
    def apply_experts(cls, methods: Sequence[LinearMethod], x: Rows, starts: Tensor, biases: Sequence[Tensor] | None) -> Rows:
        first = methods[0]
        assert isinstance(first, Int8)
        rows = first.ops.quantize(x) if isinstance(x, Tensor) else x
        return first.ops.linear_experts_int8(rows, [method._weight for method in methods], starts, biases, first._dtype)

    @property
    def plain_weight(self) -> Any:
        return self._weight

    def take(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        """In place of `store`: integers int8 [out, in] with their scales float32 [out], for rows of `dtype`."""
        self._dtype = dtype
        self._keep(self.ops.pack_int8_rows(values, scale, halves=self.gated))

    def _in_words(self, dtype: torch.dtype) -> str:
        return "in 8 bits, by rows in int8"

    def _pack(self, weight: Tensor) -> Any:
        self._dtype = weight.dtype
        return self.ops.pack_int8(weight, halves=self.gated)
