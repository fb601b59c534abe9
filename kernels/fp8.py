"""Weights of 8-bit floats with scales by blocks, as checkpoints hold them: their data and arithmetic.

Feature i of output row o means `values[o, i] * scale[o // rows, i // columns]`, rounded to float32.

Such a weight is multiplied by rows in their own dtype, or, where a scale's block is as long as a row, by rows that are quantized as
they come: float8 e4m3, with one factor a token. Rounding rows so costs outputs 2.5 % of their size; int8 by token costs 0.8 %, and 6.8 %
where a few features are 50 times larger, which floats do not mind.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: What values may be of.
DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
#: What rows and, on the fly, weights are rounded to.
E4M3 = torch.float8_e4m3fn
_MOST = torch.finfo(E4M3).max
_TINY = torch.finfo(torch.float32).tiny
#: Weights rounded at a time: what lies beside a weight meanwhile is in float32.
_SLAB = 1 << 22


class Fp8Weight(NamedTuple):
    """A weight [out, in]."""

    values: Tensor
    """float8 e4m3 or e5m2 [out, in]"""
    scale: Tensor
    """float32 [ceil(out / block[0]), ceil(in / block[1])]"""
    block: tuple[int, int]
    """Output and input features that share a scale."""

    @property
    def has_row_scales(self) -> bool:
        """True if all input features share a scale."""
        return self.block[1] >= self.values.shape[1]

    def row_scales(self) -> Tensor:
        """float32 [out] where they do."""
        return self.scale[:, 0].repeat_interleave(self.block[0])[: self.values.shape[0]]

    def widened(self) -> Tensor:
        """float32 [out, in]"""
        out_features, in_features = self.values.shape
        by_row = self.scale.repeat_interleave(self.block[0], 0)[:out_features]
        return self.values.float() * by_row.repeat_interleave(self.block[1], 1)[:, :in_features]


def rounded(weight: Tensor) -> Fp8Weight:
    """A weight [out, in] in e4m3, one scale an output row: its largest magnitude / 448."""
    values = torch.empty(weight.shape, dtype=E4M3, device=weight.device)
    scale = torch.empty(weight.shape[0], 1, device=weight.device)
    step = max(1, _SLAB // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], step):
        part = weight[start : start + step].float()
        values[start : start + step], scale[start : start + step, 0] = rounded_rows(part)
    return Fp8Weight(values, scale, (1, weight.shape[1]))


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(e4m3 [N, F], float32 [N]) of rows: x / scale, to the nearest, with scale = largest magnitude / 448; a row of zeros has scale 0.

    A row with a NaN or an infinity has zeros and a scale that shows it.
    """
    x = x.float()
    scale = x.abs().amax(-1) / _MOST
    scale = torch.where(scale < _TINY, 0.0, scale)
    inverse = torch.where((scale > 0) & torch.isfinite(scale), 1 / scale, 0.0)
    return torch.nan_to_num(x * inverse[:, None]).clamp(-_MOST, _MOST).to(E4M3), scale


def malformed(weight: Fp8Weight) -> str:
    """The fault in a weight's shapes or dtypes, or nothing."""
    if weight.values.dtype not in DTYPES:
        return f"values are of {weight.values.dtype}; float8_e4m3fn and float8_e5m2 are multiplied"
    right = [-(-size // step) for size, step in zip(weight.values.shape, weight.block, strict=True)]
    if weight.scale.dtype != torch.float32 or [*weight.scale.shape] != right:
        return f"scale is {weight.scale.dtype} {[*weight.scale.shape]}; float32 {right} is right"
    return ""
