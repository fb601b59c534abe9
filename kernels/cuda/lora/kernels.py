"""The two kernels of rows.py."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from ..experts import rows_of
from ..signature import Signature
from ..tiles import dot_add

#: Rows of a tile; output features of one; input features that are multiplied at a time.
ROWS, OUTPUTS, DEPTH = 16, 64, 64


@triton.jit(do_not_specialize=["count", "adapters"])
def inner_kernel(
    x, a, a_offsets, sizes, starts, order, factor, inner, count, depth, columns, adapters,
    QUANTIZED: tl.constexpr, FACTOR: tl.constexpr, EXPERTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """x A^T * factor -> inner [count, columns], rounded, in the order of the adapters. One program a tile of it."""
    row_tiles = (count + tl.minimum(adapters, count) * (ROWS - 1)) // ROWS
    adapter, first, end = rows_of(tl.program_id(0) % row_tiles, starts, adapters, EXPERTS, ROWS)
    if adapter >= adapters:
        return
    column = (tl.program_id(0) // row_tiles) * COLUMNS + tl.arange(0, COLUMNS)
    own_columns = tl.load(sizes + 2 * adapter + 1)
    if (tl.program_id(0) // row_tiles) * COLUMNS >= own_columns:
        return
    place = first + tl.arange(0, ROWS)
    row = tl.load(order + tl.minimum(place, end - 1)).to(tl.int64)
    k = tl.arange(0, DEPTH)
    x_rows = (x + row * depth)[:, None]
    a_columns = (a + tl.load(a_offsets + adapter) + column.to(tl.int64) * depth)[None, :]
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, depth, DEPTH):
        left = depth - start
        if QUANTIZED:
            values = tl.load(x_rows + (start + k)[None, :], mask=k[None, :] < left, other=128).to(tl.float32) - 128.0
        else:
            values = tl.load(x_rows + (start + k)[None, :], mask=k[None, :] < left, other=0.0)
        b = tl.load(a_columns + (start + k)[:, None], mask=k[:, None] < left, other=0.0)
        acc = dot_add(values.to(a.dtype.element_ty), b, acc)
    if FACTOR:
        acc *= tl.load(factor + row)[:, None]
    tl.store(inner + place[:, None] * columns + column[None, :], acc.to(inner.dtype.element_ty), mask=(place < end)[:, None])


@triton.jit(do_not_specialize=["count", "adapters"])
def add_kernel(
    inner, b, b_offsets, sizes, starts, order, out, count, outputs, columns, adapters,
    EXPERTS: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[order] += inner B^T. One program a tile of the rows and output features that an adapter has."""
    row_tiles = (count + tl.minimum(adapters, count) * (ROWS - 1)) // ROWS
    adapter, first, end = rows_of(tl.program_id(0) % row_tiles, starts, adapters, EXPERTS, ROWS)
    if adapter >= adapters:
        return
    features = tl.load(sizes + 2 * adapter)
    own_columns = tl.load(sizes + 2 * adapter + 1)
    output = (tl.program_id(0) // row_tiles) * OUTPUTS + tl.arange(0, OUTPUTS)
    if (tl.program_id(0) // row_tiles) * OUTPUTS >= features:
        return
    place = first + tl.arange(0, ROWS)
    row = tl.load(order + tl.minimum(place, end - 1)).to(tl.int64)
    k = tl.arange(0, COLUMNS)
    inner_tile = inner + tl.minimum(place, end - 1)[:, None] * columns + k[None, :]
    b_tile = b + tl.load(b_offsets + adapter) + tl.minimum(output, features - 1)[None, :].to(tl.int64) * own_columns + k[:, None]
    acc = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for _ in range(0, own_columns, COLUMNS):
        acc = dot_add(tl.load(inner_tile), tl.load(b_tile), acc)
        inner_tile += COLUMNS
        b_tile += COLUMNS
    to = out + row[:, None] * outputs + output[None, :]
    mask = (place < end)[:, None] & (output < features)[None, :]
    tl.store(to, (tl.load(to, mask=mask, other=0.0).to(tl.float32) + acc).to(out.dtype.element_ty), mask=mask)


def signatures() -> list[Signature]:
    """Of each dtype, of one without rows' factors, and of quantized rows."""
    made = []
    sizes = {"count": "i32", "columns": "i32:16", "adapters": "i32"}
    common = {"sizes": "*i32", "starts": "*i64", "order": "*i32", **sizes}
    for dtype, size in (("bf16", 2), ("fp16", 2), ("fp32", 4)):
        factor = dtype != "fp16"
        for quantized in (False, True) if dtype == "bf16" else (False,):
            types = {
                "x": "*u8" if quantized else f"*{dtype}", "a": f"*{dtype}", "a_offsets": "*i64", "inner": f"*{dtype}",
                "depth": "i32:16", **({"factor": "*fp32"} if factor else {}), **common,
            }  # fmt: skip
            constexprs: dict[str, Any] = {"QUANTIZED": quantized, "FACTOR": factor, "ROWS": ROWS, "COLUMNS": 16, "DEPTH": DEPTH}
            constexprs |= {"EXPERTS": 8, **({} if factor else {"factor": None})}
            name = f"lora inner {dtype}{' of uint8' if quantized else ''}{'' if factor else ' without factor'}"
            made.append(Signature(inner_kernel, name, types, constexprs, 4, 2, size == 2))
        types = {"inner": f"*{dtype}", "b": f"*{dtype}", "b_offsets": "*i64", "out": f"*{dtype}", "outputs": "i32:16", **common}
        constexprs = {"EXPERTS": 8, "ROWS": ROWS, "OUTPUTS": OUTPUTS, "COLUMNS": 16}
        made.append(Signature(add_kernel, f"lora add {dtype}", types, constexprs, 4, 2, size == 2))
    return made
