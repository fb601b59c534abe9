"""RMSNorm and LayerNorm, residual added and result quantized in the same pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import Rows, ScaledRows
from .library import DTYPES, function
from .quantize import quantized

_rms_norm = function("infer_rms_norm", "ppppppiiiif")
_layer_norm = function("infer_layer_norm", "pppppppiiiif")


def rms_norm(x: Rows, weight: Tensor, eps: float, *, quantize: bool = False) -> Rows:
    return _normalize(x, None, weight, eps, quantize)


def add_rms_norm(x: Rows, residual: Tensor, weight: Tensor, eps: float, *, quantize: bool = False) -> tuple[Rows, Tensor]:
    residual = residual.contiguous()
    return _normalize(x, residual, weight, eps, quantize), residual


def layer_norm(x: Rows, weight: Tensor, bias: Tensor | None, eps: float, *, quantize: bool = False) -> Rows:
    return _normalize(x, None, weight, eps, quantize, centered=True, bias=bias)


def add_layer_norm(
    x: Rows, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, quantize: bool = False
) -> tuple[Rows, Tensor]:
    residual = residual.contiguous()
    return _normalize(x, residual, weight, eps, quantize, centered=True, bias=bias), residual


def _normalize(
    x: Rows, residual: Tensor | None, weight: Tensor, eps: float, quantize: bool, *, centered: bool = False, bias: Tensor | None = None
) -> Rows:
    """`residual` becomes the sum, and x then what is returned. Weight and bias are of one dtype, x's or float32."""
    values, scale = x if isinstance(x, ScaledRows) else (x, None)
    values, size = values.contiguous(), weight.shape[0]
    assert values.shape[-1] == size
    assert residual is None or (residual.shape == values.shape and residual.dtype == values.dtype)
    assert bias is None or bias.dtype == weight.dtype
    out, out_scale = quantized(values.shape) if quantize else (torch.empty_like(values) if residual is None else values, None)
    shape = (values.numel() // size, size, DTYPES[values.dtype], DTYPES[weight.dtype], eps)
    if centered:
        _layer_norm(values, scale, residual, weight, bias, out, out_scale, *shape)
    else:
        _rms_norm(values, scale, residual, weight, out, out_scale, *shape)
    return out if out_scale is None else ScaledRows(out, out_scale)
