"""No quantization: the weight in the model's dtype, or in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import Rows

from ..weights.cut import Cut
from ..weights.parameter import Parameter
from .base import LinearMethod


class Plain(LinearMethod):
    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        return out_features * in_features * dtype.itemsize

    def apply(self, x: Rows, bias: Tensor | None) -> Tensor:
        assert isinstance(x, Tensor), "rows are quantized only for layers that ask for it"
        return self.ops.linear(x, self._weight, bias)

    def apply_gated(self, x: Rows, bias: Tensor | None, kind: str, *, quantize: bool) -> Rows:
        if quantize or not self.gated:
            return super().apply_gated(x, bias, kind, quantize=quantize)
        assert isinstance(x, Tensor), "rows are quantized only for layers that ask for it"
        return self.ops.linear_gated(x, self._weight, bias, kind)

    @property
    def plain_weight(self) -> Any:
        return self._weight

    @classmethod
    def apply_experts(cls, methods: Sequence[LinearMethod], x: Rows, starts: Tensor, biases: Sequence[Tensor] | None) -> Rows:
        assert isinstance(x, Tensor), "rows are quantized only for layers that ask for it"
        return methods[0].ops.linear_experts(x, [method._weight for method in methods], starts, biases)

    def _pack(self, weight: Tensor) -> Any:
        return self.ops.pack_halves(weight) if self.gated else self.ops.pack_weight(weight)


class InFloat32(Plain):
    """Kept and multiplied in float32, whatever the model's dtype is."""

    def _in_words(self, dtype: torch.dtype) -> str:
        return super()._in_words(torch.float32)

    def declare(self, names: Sequence[str], outs: Sequence[int], in_features: int, cuts: Sequence[Cut] | None) -> list[Parameter]:
        matrices = [(f"{name}.weight", (out, in_features)) for name, out in zip(names, outs, strict=True)]
        return [Parameter(*matrices, cuts=cuts, dtype=torch.float32, store=self.store)]

    @property
    def plain_weight(self) -> Any:
        return None

    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        return super().num_bytes(out_features, in_features, torch.float32)

    def apply(self, x: Rows, bias: Tensor | None) -> Tensor:
        assert isinstance(x, Tensor), "rows are quantized only for layers that ask for it"
        return super().apply(x.float(), None if bias is None else bias.float())

    def apply_gated(self, x: Rows, bias: Tensor | None, kind: str, *, quantize: bool) -> Rows:
        assert isinstance(x, Tensor), "rows are quantized only for layers that ask for it"
        return super().apply_gated(x.float(), None if bias is None else bias.float(), kind, quantize=quantize)
