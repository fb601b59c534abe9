"""No quantization: the weight in the model's dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from infer.kernels.ops import Rows

from .base import LinearMethod


class Plain(LinearMethod):
    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        return out_features * in_features * dtype.itemsize

    def apply(self, x: Rows, bias: Tensor | None) -> Tensor:
        assert isinstance(x, Tensor), "rows are quantized only for layers that ask for it"
        return self.ops.linear(x, self._weight, bias)

    def _pack(self, weight: Tensor) -> Any:
        return self.ops.pack_weight(weight)
