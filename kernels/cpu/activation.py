"""Gated activations, result quantized in the same pass."""

from __future__ import annotations

from ..ops import Rows, ScaledRows
from . import rows
from .library import DTYPES, function, pointer

#: Same numbers as `Kind` in src/activation.cpp.
_KINDS = {"silu": 0, "gelu": 1, "gelu_tanh": 2}

_gated_activation = function("infer_gated_activation", "ppppiiii")


def gated_activation(x: Rows, kind: str, *, quantize: bool = False) -> Rows:
    values, scale = rows.split(x)
    count, width = values.shape
    size = width // 2
    out, out_scale = rows.quantized((count, size)) if quantize else (values.new_empty((count, size)), None)
    _gated_activation(
        values.data_ptr(), pointer(scale), out.data_ptr(), pointer(out_scale), count, size, DTYPES[values.dtype], _KINDS[kind]
    )
    return out if out_scale is None else ScaledRows(out, out_scale)
