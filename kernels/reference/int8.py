"""Multiplication of quantized rows by int8 weights, summed exactly in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import INT8_ZERO, Rows, ScaledRows
from .activation import gated_activation

#: Weights quantized at a time: what lies beside a weight meanwhile is in float32.
SLAB = 1 << 20


class Int8Weight(NamedTuple):
    """Means `values[i] * scale[i]`."""

    values: Tensor
    """int8 [out, in]"""
    scale: Tensor
    """float32 [out]"""


def supports_int8() -> bool:
    return True


def pack_int8(weight: Tensor, *, halves: bool = False) -> Int8Weight:
    packed = Int8Weight(torch.empty(weight.shape, dtype=torch.int8, device=weight.device), weight.abs().amax(-1).float() / 127)
    rows = max(1, SLAB // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        part = weight[start : start + rows].to(torch.float32, copy=True)
        largest = part.abs().amax(-1, keepdim=True)
        # (127 w) / largest: the inverse of a tiny number may be infinite.
        part.mul_(127).div_(torch.where(largest > 0, largest, 1.0)).round_()
        packed.values[start : start + rows] = part
    return packed


def pack_int8_rows(values: Tensor, scale: Tensor, *, halves: bool = False) -> Int8Weight:
    return Int8Weight(values, scale)


def linear_int8(x: ScaledRows, weight: Int8Weight, bias: Tensor | None, dtype: torch.dtype) -> Rows:
    sums = (x.values.double() - INT8_ZERO) @ weight.values.double().T
    product = sums.float() * weight.scale
    return ScaledRows(product.to(dtype), x.scale) if passes_scale(bias, dtype) else scaled(product, x.scale, bias, dtype)


def linear_int8_gated(x: ScaledRows, weight: Int8Weight, bias: Tensor | None, kind: str, dtype: torch.dtype, *, quantize: bool) -> Rows:
    """One after the other."""
    return gated_activation(linear_int8(x, weight, bias, dtype), kind, quantize=quantize)


def passes_scale(bias: Tensor | None, dtype: torch.dtype) -> bool:
    """True if the rows' factors can be left to the next operation: in float16, what they have yet to shrink may overflow."""
    return bias is None and dtype != torch.float16


def scaled(product: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """product [N, out] float32 * scale [N] + bias [out] in `dtype`. Overwrites product."""
    product *= scale[:, None]
    if bias is not None:
        product += bias
    return product.to(dtype)
