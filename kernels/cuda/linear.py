"""Matrix multiplication: the GEMM library's, or our own that gives a row the same bits in any company.

Ours has one tile for each architecture and dtype, and sums over the inputs in order, in one program: neither the number of rows nor a
row's place among them has a part in its result. A library chooses tiles, and splits the sum, by the number of rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..reference.linear import in_chunks
from . import configs
from .configs import cdiv
from .signature import TARGETS, Signature
from .tiles import dot_add


def pack_weight(weight: Tensor) -> Tensor:
    """The weight itself."""
    return weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, row_chunk: int = 0, *, deterministic: bool = False) -> Tensor:
    """See `infer.kernels.ops.Ops.linear`; `deterministic`: rows' bits do not depend on other rows."""
    if deterministic:
        return invariant_linear(x, weight, bias)
    return in_chunks(x, row_chunk, lambda part: F.linear(part, weight, bias))


def invariant_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [N, in] @ weight [out, in]^T + bias [out], summed in float32, in the same order whatever N is."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    weight = weight if weight.stride(-1) == 1 else weight.contiguous()
    count, depth = x.shape
    outputs = weight.shape[0]
    out = torch.empty(count, outputs, dtype=x.dtype, device=x.device)
    if out.numel():
        tile = configs.product(x)
        linear_kernel[grid_of(tile, count, outputs)](
            x, x.stride(0), weight, weight.stride(0), bias, out, count, outputs, depth, BIAS=bias is not None,
            ROWS=tile.rows, OUTPUTS=tile.outputs, DEPTH=tile.depth, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip
    return out


def grid_of(tile: configs.Product, count: int, outputs: int) -> tuple[int]:
    """Programs: tiles of rows, then of outputs, one after the other, so that programs beside each other read the same weights."""
    return (cdiv(count, tile.rows) * cdiv(outputs, tile.outputs),)


@triton.jit(do_not_specialize=["count"])
def linear_kernel(
    x, x_stride, weight, weight_stride, bias, out, count, outputs, depth,
    BIAS: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One program a tile of `out`."""
    row_tiles = tl.cdiv(count, ROWS)
    row = (tl.program_id(0) % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    output = (tl.program_id(0) // row_tiles).to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, DEPTH)
    # Rows and outputs past the end read the last one, and are not written.
    x_tile = x + tl.minimum(row, count - 1)[:, None] * x_stride + k[None, :]
    w_tile = weight + tl.minimum(output, outputs - 1)[None, :] * weight_stride + k[:, None]
    acc = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for start in range(0, depth, DEPTH):
        left = depth - start
        a = tl.load(x_tile, mask=k[None, :] < left, other=0.0)
        b = tl.load(w_tile, mask=k[:, None] < left, other=0.0)
        acc = dot_add(a, b, acc)
        x_tile += DEPTH
        w_tile += DEPTH
    if BIAS:
        acc += tl.load(bias + tl.minimum(output, outputs - 1)).to(tl.float32)[None, :]
    place = out + row[:, None] * outputs + output[None, :]
    tl.store(place, acc.to(out.dtype.element_ty), mask=(row < count)[:, None] & (output < outputs)[None, :])


def signatures() -> list[Signature]:
    """Of each dtype, of one without a bias, with the tile of each target."""
    made = []
    for target in TARGETS:
        for dtype, size in (("bf16", 2), ("fp16", 2), ("fp32", 4)):
            bias = dtype != "fp16"
            tile = configs.PRODUCTS[target.row, size]
            types = {
                "x": f"*{dtype}", "x_stride": "i32:16", "weight": f"*{dtype}", "weight_stride": "i32:16", "out": f"*{dtype}",
                "count": "i32", "outputs": "i32:16", "depth": "i32:16", **({"bias": f"*{dtype}"} if bias else {}),
            }  # fmt: skip
            constexprs: dict[str, Any] = {"BIAS": bias, "ROWS": tile.rows, "OUTPUTS": tile.outputs, "DEPTH": tile.depth}
            constexprs |= {} if bias else {"bias": None}
            name = f"linear {dtype}{'' if bias else ' without bias'}"
            made.append(
                Signature(linear_kernel, name, types, constexprs, tile.num_warps, tile.num_stages, size == 2, (target.name,))
            )  # fmt: skip
    return made
