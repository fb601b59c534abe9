"""8-bit floats with scales by blocks: kept as small as the checkpoint has them, and multiplied so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from infer.kernels.fp8 import DTYPES, Fp8Weight
from infer.kernels.ops import Ops, Rows

from ..weights.formats.values import Floats
from .base import LinearMethod


class InFloats(LinearMethod):
    """
    Args:
        dtype: the model's.
        quantize_input: rows become 8-bit floats as they come; else weights become `dtype` a few at a time as they are used.
    """

    def __init__(self, ops: Ops, dtype: torch.dtype, *, quantize_input: bool) -> None:
        super().__init__(ops)
        self.dtype = dtype
        self.quantize_input = quantize_input

    @property
    def kind(self) -> object:
        return InFloats, self.quantize_input

    def refuses(self, weight: Floats) -> str:
        """Why the backend cannot multiply by it, or nothing."""
        if weight.values.dtype not in DTYPES:
            return f"floats of {weight.values.dtype} are not multiplied as they are"
        return self.ops.fp8_refusal(weight.shape, weight.block, self.dtype, quantize_input=self.quantize_input)

    def take(self, weight: Floats, device: torch.device) -> None:
        """In place of `store`: the weight is to be on `device`."""
        there = Fp8Weight(weight.values.to(device), weight.scale.to(device), weight.block)
        self._keep(self.ops.pack_fp8(there, self.dtype, quantize_input=self.quantize_input))

    def num_bytes(self, out_features: int, in_features: int, dtype: torch.dtype) -> int:
        """At most: as if it were plain."""
        return out_features * in_features * dtype.itemsize

    def apply(self, x: Rows, bias: Tensor | None) -> Rows:
        assert isinstance(x, Tensor), "only layers that quantize their input get rows with factors"
        return self.ops.linear_fp8(x, self._weight, bias)

    def _pack(self, weight: Tensor) -> Any:
        raise AssertionError("it takes what is stored")
