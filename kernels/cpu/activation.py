"""Activations, gated or not, result quantized in the same pass."""

from __future__ import annotations

from ..ops import Rows, ScaledRows
from .library import DTYPES, function
from .quantize import quantized

#: Same numbers as `Activation` in src/activation.h.
KINDS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "relu2": 4, "clamped_swiglu": 5, "sigmoid": 6}

_activation = function("infer_activation", "ppppiiiii")


def gated_activation(x: Rows, kind: str, *, quantize: bool = False) -> Rows:
    return _activate(x, kind, quantize, gated=True)


def activation(x: Rows, kind: str, *, quantize: bool = False) -> Rows:
    return _activate(x, kind, quantize, gated=False)


def _activate(x: Rows, kind: str, quantize: bool, *, gated: bool) -> Rows:
    values, scale = x if isinstance(x, ScaledRows) else (x, None)
    values = values.contiguous()
    count, width = values.shape
    size = width // 2 if gated else width
    out, out_scale = quantized((count, size)) if quantize else (values.new_empty((count, size)), None)
    _activation(values, scale, out, out_scale, count, size, DTYPES[values.dtype], KINDS[kind], gated)
    return out if out_scale is None else ScaledRows(out, out_scale)
