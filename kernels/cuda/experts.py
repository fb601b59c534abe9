"""Multiplication of rows, sorted by expert, by the weights of their experts: one launch for all, and nothing of it is decided on the CPU.

Every tile of rows is one expert's; a program finds its expert from where their rows start. Weights are where they were loaded: they go in
as distances from the first one. Sums are those of linear.py and int8.py, of fixed tiles, and so a row's bits are its own in any company.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops import Rows, ScaledRows
from ..reference.int8 import Int8Weight, passes_scale
from . import configs
from .configs import cdiv, next_power_of_2
from .signature import TARGETS, Signature
from .tiles import dot_add

#: Distances of weights that are multiples of this let a program read them 16 bytes at a time.
ALIGNED = 16
#: Of a tile of floating-point numbers; tensor cores take no fewer.
LEAST_DEPTH = 16


def linear_experts(x: Tensor, weights: Sequence[Tensor], starts: Tensor, biases: Sequence[Tensor] | None) -> Tensor:
    """See `infer.kernels.ops.Ops.linear_experts`."""
    x = x.contiguous()
    count, depth = x.shape
    outputs = weights[0].shape[0]
    out = torch.empty(count, outputs, dtype=x.dtype, device=x.device)
    if out.numel():
        offsets, aligned = distances(addresses_of(weights), x.element_size(), x.device)
        tile = _tile(configs.product(x), aligned=aligned)
        first_bias, bias_offsets = _biases(biases)
        experts_kernel[_grid(tile, count, outputs, len(weights))](
            x, weights[0], offsets, first_bias, bias_offsets, starts, out, count, outputs, depth, len(weights),
            BIAS=biases is not None, ALIGNED=aligned, EXPERTS=next_power_of_2(len(weights)),
            ROWS=tile.rows, OUTPUTS=tile.outputs, DEPTH=tile.depth, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip
    return out


def linear_experts_int8(
    x: ScaledRows, weights: Sequence[Int8Weight], starts: Tensor, biases: Sequence[Tensor] | None, dtype: torch.dtype
) -> Rows:
    """See `infer.kernels.ops.Ops.linear_experts_int8`."""
    values = x.values.contiguous()
    count, depth = values.shape
    outputs = weights[0].values.shape[0]
    assert depth <= 133_000, depth  # as in int8.py
    passes = passes_scale(None if biases is None else biases[0], dtype)
    out = torch.empty(count, outputs, dtype=dtype, device=values.device)
    if out.numel():
        offsets, aligned = distances(addresses_of([weight.values for weight in weights]), 1, values.device)
        tile = _int8_tile(configs.product(values), aligned=aligned)
        scales, _ = distances(addresses_of([weight.scale for weight in weights]), 4, values.device)
        first_bias, bias_offsets = _biases(biases)
        experts_int8_kernel[_grid(tile, count, outputs, len(weights))](
            values, x.scale, weights[0].values, offsets, weights[0].scale, scales, first_bias, bias_offsets, starts, out,
            count, outputs, depth, len(weights),
            SCALE=not passes, BIAS=biases is not None, ALIGNED=aligned, EXPERTS=next_power_of_2(len(weights)),
            ROWS=tile.rows, OUTPUTS=tile.outputs, DEPTH=tile.depth, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip
    return ScaledRows(out, x.scale) if passes else out


def _tile(tile: configs.Product, *, aligned: bool) -> configs.Product:
    """Weights anywhere are read one by one, which takes registers: 28 bytes a thread would spill on sm_120."""
    return tile if aligned else tile._replace(depth=max(tile.depth // 2, LEAST_DEPTH))


def _int8_tile(tile: configs.Product, *, aligned: bool) -> configs.Product:
    """Weights anywhere are read byte by byte: 400 bytes a thread would spill. Sums of integers are the same whatever the tile."""
    return tile if aligned else tile._replace(depth=tile.depth // 2, num_warps=2 * tile.num_warps)


def _grid(tile: configs.Product, count: int, outputs: int, experts: int) -> tuple[int]:
    """Programs: as many tiles of rows as there can be, whatever the experts have, then of outputs."""
    return (most_tiles(count, experts, tile.rows) * cdiv(outputs, tile.outputs),)


def most_tiles(count: int, experts: int, rows: int) -> int:
    """Each expert that has rows has one tile that is not full, at most."""
    return (count + min(experts, count) * (rows - 1)) // rows


def addresses_of(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    assert all(tensor.is_contiguous() for tensor in tensors)
    return tuple(tensor.data_ptr() for tensor in tensors)


@functools.lru_cache(maxsize=4096)
def distances(addresses: tuple[int, ...], size: int, device: torch.device) -> tuple[Tensor, bool]:
    """int64 [E] on the device: elements from the first tensor to each; and True if all are multiples of ALIGNED.

    Kept, since it is made on the CPU: what is recorded of a step cannot wait for it.
    """
    offsets = [(address - addresses[0]) // size for address in addresses]
    assert all(offset * size == address - addresses[0] for offset, address in zip(offsets, addresses, strict=True))
    return torch.tensor(offsets, device=device), all(offset % ALIGNED == 0 for offset in offsets)


def _biases(biases: Sequence[Tensor] | None) -> tuple[Tensor | None, Tensor | None]:
    """The first one, and the distances to all."""
    if biases is None:
        return None, None
    return biases[0], distances(addresses_of(biases), biases[0].element_size(), biases[0].device)[0]


@triton.jit
def rows_of(tile, starts, experts, EXPERTS: tl.constexpr, ROWS: tl.constexpr):
    """(expert, first row, end of its rows) of a tile of rows; an expert past the last one: there is no such tile."""
    e = tl.arange(0, EXPERTS)
    there = e < experts
    first = tl.load(starts + e, mask=there, other=0)
    end = tl.load(starts + e + 1, mask=there, other=0)
    tiles = (end - first + ROWS - 1) // ROWS
    until = tl.cumsum(tiles, 0)
    expert = tl.sum((there & (until <= tile)).to(tl.int32), 0)
    own = e == expert
    row = tl.sum(tl.where(own, first + (tile - until + tiles) * ROWS, 0), 0)
    return expert, row, tl.sum(tl.where(own, end, 0), 0)


@triton.jit
def distance_of(offsets, expert, ALIGNED: tl.constexpr):
    offset = tl.load(offsets + expert)
    return tl.multiple_of(offset, 16) if ALIGNED else offset


@triton.jit(do_not_specialize=["count", "experts"])
def experts_kernel(
    x, weight, offsets, bias, bias_offsets, starts, out, count, outputs, depth, experts,
    BIAS: tl.constexpr, ALIGNED: tl.constexpr, EXPERTS: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """One program a tile of `out`, and some for tiles that are not there."""
    row_tiles = (count + tl.minimum(experts, count) * (ROWS - 1)) // ROWS
    expert, first, end = rows_of(tl.program_id(0) % row_tiles, starts, experts, EXPERTS, ROWS)
    if expert >= experts:
        return
    row = first + tl.arange(0, ROWS)
    output = (tl.program_id(0) // row_tiles).to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, DEPTH)
    own_output = tl.minimum(output, outputs - 1)
    # Rows and outputs past the end read the last one, and are not written.
    x_tile = x + tl.minimum(row, end - 1)[:, None] * depth + k[None, :]
    w_tile = weight + distance_of(offsets, expert, ALIGNED) + own_output[None, :] * depth + k[:, None]
    acc = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for start in range(0, depth, DEPTH):
        left = depth - start
        a = tl.load(x_tile, mask=k[None, :] < left, other=0.0)
        b = tl.load(w_tile, mask=k[:, None] < left, other=0.0)
        acc = dot_add(a, b, acc)
        x_tile += DEPTH
        w_tile += DEPTH
    if BIAS:
        acc += tl.load(bias + tl.load(bias_offsets + expert) + own_output).to(tl.float32)[None, :]
    place = out + row[:, None] * outputs + output[None, :]
    tl.store(place, acc.to(out.dtype.element_ty), mask=(row < end)[:, None] & (output < outputs)[None, :])


@triton.jit(do_not_specialize=["count", "experts"])
def experts_int8_kernel(
    x, x_scale, weight, offsets, weight_scale, scale_offsets, bias, bias_offsets, starts, out, count, outputs, depth, experts,
    SCALE: tl.constexpr, BIAS: tl.constexpr, ALIGNED: tl.constexpr, EXPERTS: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The same of x uint8 [count, depth] and weights int8 [outputs, depth]."""
    row_tiles = (count + tl.minimum(experts, count) * (ROWS - 1)) // ROWS
    expert, first, end = rows_of(tl.program_id(0) % row_tiles, starts, experts, EXPERTS, ROWS)
    if expert >= experts:
        return
    row = first + tl.arange(0, ROWS)
    output = (tl.program_id(0) // row_tiles).to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
    k = tl.arange(0, DEPTH)
    own_row, own_output = tl.minimum(row, end - 1), tl.minimum(output, outputs - 1)
    x_tile = x + own_row[:, None] * depth + k[None, :]
    w_tile = weight + distance_of(offsets, expert, ALIGNED) + own_output[None, :] * depth + k[:, None]
    acc = tl.zeros([ROWS, OUTPUTS], tl.int32)
    for start in range(0, depth, DEPTH):
        left = depth - start
        a = tl.load(x_tile, mask=k[None, :] < left, other=128)
        b = tl.load(w_tile, mask=k[:, None] < left, other=0)
        # Taking 128 off a uint8, as an int8, is turning its highest bit round.
        acc = tl.dot((a ^ 0x80).to(tl.int8, bitcast=True), b, acc, out_dtype=tl.int32)
        x_tile += DEPTH
        w_tile += DEPTH
    product = acc.to(tl.float32) * tl.load(weight_scale + tl.load(scale_offsets + expert) + own_output)[None, :]
    if SCALE:
        product *= tl.load(x_scale + own_row)[:, None]
    if BIAS:
        product += tl.load(bias + tl.load(bias_offsets + expert) + own_output).to(tl.float32)[None, :]
    place = out + row[:, None] * outputs + output[None, :]
    tl.store(place, product.to(out.dtype.element_ty), mask=(row < end)[:, None] & (output < outputs)[None, :])


def signatures() -> list[Signature]:
    """Of each dtype, one without a bias and of weights anywhere, with the tile of each target; of int8 without a bias, the rows' scales
    passed on, and with one and weights anywhere."""
    made = []
    sizes = {"count": "i32", "outputs": "i32:16", "depth": "i32:16", "experts": "i32"}
    for target in TARGETS:
        for dtype, size in (("bf16", 2), ("fp16", 2), ("fp32", 4)):
            bias = dtype != "fp16"
            tile = _tile(configs.PRODUCTS[target.row, size], aligned=bias)
            types = {
                "x": f"*{dtype}", "weight": f"*{dtype}", "offsets": "*i64", "starts": "*i64", "out": f"*{dtype}",
                **sizes, **({"bias": f"*{dtype}", "bias_offsets": "*i64"} if bias else {}),
            }  # fmt: skip
            constexprs: dict[str, Any] = {"BIAS": bias, **_constexprs(tile, aligned=bias)}
            constexprs |= {} if bias else {"bias": None, "bias_offsets": None}
            name = f"linear_experts {dtype}{'' if bias else ' anywhere, without bias'}"
            made.append(Signature(experts_kernel, name, types, constexprs, tile.num_warps, tile.num_stages, size == 2, (target.name,)))
        for dtype, bias in (("bf16", False), ("fp16", True)):
            tile = _int8_tile(configs.PRODUCTS[target.row, 1], aligned=not bias)
            types = {
                "x": "*u8", "x_scale": "*fp32", "weight": "*i8", "offsets": "*i64", "weight_scale": "*fp32", "scale_offsets": "*i64",
                "starts": "*i64", "out": f"*{dtype}", **sizes, **({"bias": f"*{dtype}", "bias_offsets": "*i64"} if bias else {}),
            }  # fmt: skip
            constexprs = {"SCALE": bias, "BIAS": bias, **_constexprs(tile, aligned=not bias)}
            constexprs |= {} if bias else {"bias": None, "bias_offsets": None}
            name = f"linear_experts_int8 {dtype}{' anywhere, with bias' if bias else ''}"
            made.append(Signature(experts_int8_kernel, name, types, constexprs, tile.num_warps, tile.num_stages, True, (target.name,)))
    return made


def _constexprs(tile: configs.Product, *, aligned: bool) -> dict[str, Any]:
    return {"ALIGNED": aligned, "EXPERTS": 128, "ROWS": tile.rows, "OUTPUTS": tile.outputs, "DEPTH": tile.depth}
