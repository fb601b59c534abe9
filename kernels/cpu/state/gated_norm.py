"""RMSNorm with a gate, result quantized in the same pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops import Rows, ScaledRows
from ..library import DTYPES, function
from ..quantize import quantized

_gated_rms_norm = function("infer_gated_rms_norm", "ppipippiiiiiif")


def gated_rms_norm(
    x: Tensor, gate: Tensor, weight: Tensor | None, eps: float, group_size: int, *, gate_first: bool, quantize: bool = False
) -> Rows:
    x, (rows, size) = x.contiguous(), x.shape
    assert gate.shape == x.shape
    assert gate.stride(1) == 1
    assert gate.dtype == x.dtype
    assert size % group_size == 0
    assert weight is None or (weight.is_contiguous() and len(weight) in (size, group_size))
    out, out_scale = quantized(x.shape) if quantize else (torch.empty_like(x), None)
    of_weight = (0, 0) if weight is None else (len(weight), DTYPES[weight.dtype])
    _gated_rms_norm(
        *(x, gate, gate.stride(0), weight, of_weight[0], out, out_scale, rows, size, group_size, int(gate_first)),
        *(DTYPES[x.dtype], of_weight[1], eps),
    )
    return out if out_scale is None else ScaledRows(out, out_scale)
