"""Rows as uint8 with one scale each."""

from __future__ import annotations

from torch import Tensor

from ..ops import ScaledRows
from . import rows
from .library import DTYPES, function

_quantize = function("infer_quantize", "pppiii")


def quantize(x: Tensor) -> ScaledRows:
    x = x.contiguous()
    out = rows.quantized(x.shape)
    _quantize(x.data_ptr(), out.values.data_ptr(), out.scale.data_ptr(), out.scale.numel(), x.shape[-1], DTYPES[x.dtype])
    return out
