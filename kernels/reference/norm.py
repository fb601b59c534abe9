"""RMSNorm and LayerNorm. Statistics in float32 whatever the dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import Rows
from .quantize import from_float, to_float


def rms_norm(x: Rows, weight: Tensor, eps: float, *, quantize: bool = False) -> Rows:
    x32, dtype = to_float(x)
    return from_float(rms_normalized(x32, weight, eps), dtype, quantize)


def add_rms_norm(x: Rows, residual: Tensor, weight: Tensor, eps: float, *, quantize: bool = False) -> tuple[Rows, Tensor]:
    total = _add(x, residual)
    return rms_norm(total, weight, eps, quantize=quantize), total


def layer_norm(x: Rows, weight: Tensor, bias: Tensor | None, eps: float, *, quantize: bool = False) -> Rows:
    x32, dtype = to_float(x)
    centered = x32 - x32.mean(-1, keepdim=True)
    normed = rms_normalized(centered, weight, eps)
    return from_float(normed if bias is None else normed + bias.float(), dtype, quantize)


def add_layer_norm(
    x: Rows, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, quantize: bool = False
) -> tuple[Rows, Tensor]:
    total = _add(x, residual)
    return layer_norm(total, weight, bias, eps, quantize=quantize), total


def rms_normalized(x32: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight of float32 rows, in float32."""
    return x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps) * weight.float()


def _add(x: Rows, residual: Tensor) -> Tensor:
    return (to_float(x)[0] + residual.float()).to(residual.dtype)
