"""Rows as uint8 with one scale each."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import ScaledRows
from .library import DTYPES, function

_quantize = function("infer_quantize", "pppiii")


def quantize(x: Tensor) -> ScaledRows:
    x = x.contiguous()
    out = quantized(x.shape)
    _quantize(x, out.values, out.scale, out.scale.numel(), x.shape[-1], DTYPES[x.dtype])
    return out


def quantized(shape: torch.Size | tuple[int, ...]) -> ScaledRows:
    """Uninitialized quantized rows."""
    return ScaledRows(torch.empty(shape, dtype=torch.uint8), torch.empty(shape[:-1], dtype=torch.float32))
