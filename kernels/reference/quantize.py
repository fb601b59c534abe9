"""Rows as uint8 with one scale each, and rows of any kind as float32."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import INT8_ZERO, Rows, ScaledRows

_TINY = torch.finfo(torch.float32).tiny


def quantize(x: Tensor) -> ScaledRows:
    x32 = x.float()
    scale = x32.abs().amax(-1) / 127  # NaN and infinity stay visible in it
    scale = torch.where(scale < _TINY, 0.0, scale)
    inverse = torch.where((scale > 0) & torch.isfinite(scale), 1 / scale, 0.0)
    # Rows without an inverse are all INT8_ZERO; 0 * infinity is not a number that could be cast.
    values = torch.nan_to_num(x32 * inverse[..., None]).round() + INT8_ZERO
    return ScaledRows(values.to(torch.uint8), scale)


def to_float(x: Rows) -> tuple[Tensor, torch.dtype]:
    """Rows as float32, scales multiplied in, and the dtype that results made of them have."""
    if isinstance(x, ScaledRows):
        return x.values.float() * x.scale[:, None], x.values.dtype
    return x.float(), x.dtype


def from_float(x: Tensor, dtype: torch.dtype, quantized: bool) -> Rows:
    return quantize(x) if quantized else x.to(dtype)
