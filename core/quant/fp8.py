"""fp8: weights rounded to 8-bit floats with a scale an output feature as they are loaded, multiplied as those of fp8 checkpoints are."""

from __future__ import annotations

import torch
from torch import Tensor

from infer.kernels.fp8 import rounded
from infer.kernels.ops import Ops

from ..weights.cut import Cut
from ..weights.formats.values import Floats
from ..weights.parameter import Value
from .rounded import Rounded


class Fp8(Rounded):
    """Arguments as of `Stored`."""

    @classmethod
    def refusal(cls, ops: Ops) -> str:
        """Plain weights would lose as much and save nothing, so there must be kernels."""
        why = ops.fp8_refusal((16, 16), (1, 16), torch.float32, quantize_input=False)
        return why and f"{why}; take int8 or int4, or kernels=reference (slow)"

    def splits(self, cut: Cut, in_features: int) -> bool:
        return cut.dim == 1

    def rounded(self, weight: Tensor, device: torch.device) -> Value:
        floats = Floats(*rounded(weight.to(device)))
        return floats if self._keeps(floats) else weight

    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        return out_features * (in_features + torch.float32.itemsize)
