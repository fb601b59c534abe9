"""Multiplication of quantized rows by int8 weights: our own kernel, whose sums are exact on every CPU, or oneDNN's where the CPU has tile
registers. Both apply the weights' scales as they write.

Rows are uint8 with INT8_ZERO for 0: signed rows would fall to a path of oneDNN's that is many times slower. The operations are private to
torch; where they are missing, `torch._int_mm` gives the same sums and scales are applied after it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import INT8_ZERO, Rows, ScaledRows
from ..reference.int8 import passes_scale, scaled
from . import gemm
from .activation import KINDS, gated_activation
from .gemm import Panels
from .library import DTYPES, function
from .quantize import quantize as quantized_rows
from .quantize import quantize_weight

_gemm = function("infer_gemm_int8", "ppppppppiiiiiiii")


class PackedInt8(NamedTuple):
    weight: Panels | Tensor
    """Ours, or int8 [out, in], in oneDNN's own layout if `packed`."""
    scale: Tensor
    """float32 [out]"""
    offset: Tensor
    """int32 [out]: what INT8_ZERO in the rows adds to the sums of ours; 0 for oneDNN, which sees to it itself."""
    packed: bool


@functools.cache
def supports_int8() -> bool:
    return _is_exact(pack_int8_rows)


@functools.cache
def _library_is_exact() -> bool:
    return _is_exact(_for_library)


def _is_exact(pack: Callable[[Tensor, Tensor], PackedInt8]) -> bool:
    """By a product of the largest values, where sums of 16 bits would saturate."""
    weight = torch.full((32, 256), 127, dtype=torch.int8)
    weight[1::2] = -127
    rows = ScaledRows(torch.full((16, 256), 255, dtype=torch.uint8), torch.ones(16))
    exact = (rows.values.long() - INT8_ZERO) @ weight.long().T
    return torch.equal(_multiply(rows, pack(weight, torch.ones(32)), torch.float32).long(), exact)


def pack_int8(weight: Tensor, *, halves: bool = False) -> PackedInt8:
    return pack_int8_rows(*quantize_weight(weight), halves=halves)


def linear_int8(x: ScaledRows, weight: PackedInt8, bias: Tensor | None, dtype: torch.dtype) -> Rows:
    if passes_scale(bias, dtype):
        return ScaledRows(_multiply(x, weight, dtype), x.scale)
    if isinstance(weight.weight, Panels) and dtype != torch.float16:  # all in one pass
        return _ours(x, weight, dtype, x.scale, bias)
    return scaled(_multiply(x, weight, torch.float32), x.scale, bias, dtype)


def linear_int8_gated(x: ScaledRows, weight: PackedInt8, bias: Tensor | None, kind: str, dtype: torch.dtype, *, quantize: bool) -> Rows:
    """See `Ops.linear_int8_gated`: what the product gives is never written, but for weights that are not packed in halves."""
    panels = weight.weight
    if not isinstance(panels, Panels) or not panels.half or dtype == torch.float16:
        return gated_activation(linear_int8(x, weight, bias, dtype), kind, quantize=quantize)
    gate = Gate(KINDS[kind], x.scale if bias is None else None, quantize)
    made = _ours(x, weight, dtype, None if bias is None else x.scale, bias, gate)
    return quantized_rows(made) if quantize else made


def pack_int8_rows(values: Tensor, scale: Tensor, *, halves: bool = False) -> PackedInt8:
    if gemm.takes_int8() or not _library_is_exact():
        panels, offset = gemm.pack_int8(values, halves=halves)
        return PackedInt8(panels, scale, offset, True)
    return _for_library(values, scale)


def _for_library(values: Tensor, scale: Tensor) -> PackedInt8:
    offset = torch.zeros(len(scale), dtype=torch.int32)
    try:
        return PackedInt8(torch.ops.onednn.qlinear_prepack(values, None), scale, offset, True)
    except (AttributeError, RuntimeError):
        return PackedInt8(values, scale, offset, False)


class Gate(NamedTuple):
    """An activation of halves of a product."""

    kind: int
    scale: Tensor | None
    """float32 [N]: what halves are multiplied by ahead of it."""
    wide: bool
    """Gives float32."""


def _ours(
    x: ScaledRows,
    weight: PackedInt8,
    dtype: torch.dtype,
    row_scale: Tensor | None = None,
    bias: Tensor | None = None,
    gate: Gate | None = None,
) -> Tensor:
    """`_multiply` by panels; with `row_scale` that * row_scale + bias, which may be of any dtype; and what `gate` makes of it."""
    panels = weight.weight
    assert isinstance(panels, Panels)
    assert bias is None or row_scale is not None
    values, (rows, outs, words) = gemm.rows_for(x.values, panels), (x.values.shape[0], panels.out_features, panels.row_words)
    kind, gate_scale, wide = gate or Gate(-1, None, False)
    out = torch.empty((rows, outs if gate is None else panels.half), dtype=torch.float32 if wide else dtype)
    sizes = (rows, outs, words, DTYPES[dtype], 0 if bias is None else DTYPES[bias.dtype], panels.half, kind, wide)
    _gemm(out, values, panels.words, weight.scale, weight.offset, row_scale, bias, gate_scale, *sizes)
    return out


def _multiply(x: ScaledRows, weight: PackedInt8, dtype: torch.dtype) -> Tensor:
    """(values - INT8_ZERO) @ weight^T with the weight's scales applied, in float32 or bfloat16."""
    if isinstance(weight.weight, Panels):
        return _ours(x, weight, dtype)
    if not weight.packed:
        signed = (x.values ^ INT8_ZERO).view(torch.int8)
        return (torch._int_mm(signed, weight.weight.T).float() * weight.scale).to(dtype)
    packed, scale, zero, _ = weight
    product: Tensor = torch.ops.onednn.qlinear_pointwise(x.values, 1.0, INT8_ZERO, packed, scale, zero, None, 1.0, 0, dtype, "none", [], "")
    return product
