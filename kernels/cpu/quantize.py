"""Rows as uint8 with one scale each."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import ScaledRows
from .library import DTYPES, function

_quantize = function("infer_quantize", "pppiii")
_quantize_weight = function("infer_quantize_weight", "pppiii")


def quantize(x: Tensor) -> ScaledRows:
    x = x.contiguous()
    out = quantized(x.shape)
    _quantize(x, out.values, out.scale, out.scale.numel(), x.shape[-1], DTYPES[x.dtype])
    return out


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [out, in] and float32 scales [out] of a weight, in the bits of `reference.int8.pack_int8`."""
    weight = weight.contiguous()
    values, scale = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0], dtype=torch.float32)
    _quantize_weight(weight, values, scale, *weight.shape, DTYPES[weight.dtype])
    return values, scale


def quantized(shape: torch.Size | tuple[int, ...]) -> ScaledRows:
    """Uninitialized quantized rows."""
    return ScaledRows(torch.empty(shape, dtype=torch.uint8), torch.empty(shape[:-1], dtype=torch.float32))
