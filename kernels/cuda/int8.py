"""Multiplication of quantized rows by int8 weights on tensor cores.

Sums are integers, exact in any order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops import Rows, ScaledRows
from ..reference.int8 import Int8Weight, pack_int8, pack_int8_rows, passes_scale
from . import configs
from .activation import gated_activation
from .linear import grid_of
from .signature import TARGETS, Signature

__all__ = ["linear_int8", "linear_int8_gated", "pack_int8", "pack_int8_rows", "supports_int8"]


def supports_int8() -> bool:
    """Every GPU that Triton compiles for has them."""
    return True


def linear_int8_gated(x: ScaledRows, weight: Int8Weight, bias: Tensor | None, kind: str, dtype: torch.dtype, *, quantize: bool) -> Rows:
    """One after the other."""
    return gated_activation(linear_int8(x, weight, bias, dtype), kind, quantize=quantize)


def linear_int8(x: ScaledRows, weight: Int8Weight, bias: Tensor | None, dtype: torch.dtype) -> Rows:
    """See `infer.kernels.ops.Ops.linear_int8`."""
    values = x.values.contiguous()
    count, depth = values.shape
    outputs = weight.values.shape[0]
    # 127 * 127 times this is the largest sum that int32 holds.
    assert depth <= 133_000, depth
    passes = passes_scale(bias, dtype)
    out = torch.empty(count, outputs, dtype=dtype, device=values.device)
    if out.numel():
        tile = configs.product(values)
        int8_kernel[grid_of(tile, count, outputs)](
            values, x.scale, weight.values, weight.scale, bias, out, count, outputs, depth, SCALE=not passes, BIAS=bias is not None,
            ROWS=tile.rows, OUTPUTS=tile.outputs, DEPTH=tile.depth, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip
    return ScaledRows(out, x.scale) if passes else out


@triton.jit(do_not_specialize=["count"])
def int8_kernel(
    x, x_scale, weight, weight_scale, bias, out, count, outputs, depth,
    SCALE: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One program a tile of `out`. x uint8 [count, depth], weight int8 [outputs, depth]."""
    row_tiles = tl.cdiv(count, ROWS)
    row = (tl.program_id(0) % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    output = (tl.program_id(0) // row_tiles).to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, DEPTH)
    own_row, own_output = tl.minimum(row, count - 1), tl.minimum(output, outputs - 1)
    x_tile = x + own_row[:, None] * depth + k[None, :]
    w_tile = weight + own_output[None, :] * depth + k[:, None]
    acc = tl.zeros([ROWS, OUTPUTS], tl.int32)
    for start in range(0, depth, DEPTH):
        left = depth - start
        a = tl.load(x_tile, mask=k[None, :] < left, other=128)
        b = tl.load(w_tile, mask=k[:, None] < left, other=0)
        # Taking 128 off a uint8, as an int8, is turning its highest bit round.
        acc = tl.dot((a ^ 0x80).to(tl.int8, bitcast=True), b, acc, out_dtype=tl.int32)
        x_tile += DEPTH
        w_tile += DEPTH
    product = acc.to(tl.float32) * tl.load(weight_scale + own_output)[None, :]
    if SCALE:
        product *= tl.load(x_scale + own_row)[:, None]
    if BIAS:
        product += tl.load(bias + own_output).to(tl.float32)[None, :]
    place = out + row[:, None] * outputs + output[None, :]
    tl.store(place, product.to(out.dtype.element_ty), mask=(row < count)[:, None] & (output < outputs)[None, :])


def signatures() -> list[Signature]:
    """Without a bias, the rows' scales passed on, and with one."""
    made = []
    for target in TARGETS:
        tile = configs.PRODUCTS[target.row, 1]
        for dtype, bias in (("bf16", False), ("fp16", True)):
            types = {
                "x": "*u8", "x_scale": "*fp32", "weight": "*i8", "weight_scale": "*fp32", "out": f"*{dtype}",
                "count": "i32", "outputs": "i32:16", "depth": "i32:16", **({"bias": f"*{dtype}"} if bias else {}),
            }  # fmt: skip
            constexprs: dict[str, Any] = {"SCALE": bias, "BIAS": bias, "ROWS": tile.rows, "OUTPUTS": tile.outputs, "DEPTH": tile.depth}
            constexprs |= {} if bias else {"bias": None}
            name = f"linear_int8 {dtype}{' with bias' if bias else ''}"
            made.append(Signature(int8_kernel, name, types, constexprs, tile.num_warps, tile.num_stages, True, (target.name,)))
    return made
