"""No quantization: the weight in the model's dtype."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from infer.kernels.ops import Rows

from .base import LinearMethod


class Plain(LinearMethod):
    def store(self, weight: Tensor) -> None:
        self._weight: Any = self.ops.pack_weight(weight)

    def apply(self, x: Rows, bias: Tensor | None) -> Tensor:
        assert isinstance(x, Tensor), "rows are quantized only for layers that ask for it"
        return self.ops.linear(x, self._weight, bias)
