"""Multiplication by weights in groups: codes of 4 and 8 bits become the model's dtype inside the product, on their way to tensor cores.

A weight is read as it is stored, so that few rows take a quarter or half of a plain weight's time. The weight's tile is the product's
first side and the rows its second: instructions for 64 of one and 8 to 256 of the other then fit few rows as well as many.

Layout: output features one below the other, input features in chunks of two halves; a byte of 4-bit codes has one of the first half in
its low bits and that of the same place in the second half in its high bits. A tile of bytes is thus two tiles of the weight, without a
shuffle. A half lies in one group wherever groups are multiples of 16 features, so factors are loaded once for each output and half.

Sums are made piece by piece of the input features, in order. Few rows have too few tiles to keep a device busy: pieces then go to
programs of their own, and are added up in order by a second kernel. Where `deterministic` is asked for, tile and pieces are the same
for any number of rows, and one program adds up the pieces of many rows in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..grouped import GroupedWeight, Scales, malformed
from ..reference.grouped import dequantize_grouped
from . import configs
from .narrow import from_e4m3, narrowed, readable
from .signature import TARGETS, Signature, Target
from .tiles import dot_add

__all__ = ["dequantize_grouped", "grouped_refusal", "linear_grouped", "pack_grouped"]

#: Programs that keep a device busy: with fewer tiles, pieces have programs of their own.
ENOUGH_PROGRAMS = 512
#: Input features of a piece at least, and of each where bits must not depend on the number of rows.
PIECE = 1024
#: Halves of chunks, largest first: the most that lie in one group are taken. Tensor cores take 16 features at once.
_HALVES = (64, 32, 16)
#: Output features that a program of `sum_pieces_kernel` adds up.
_SUM_BLOCK = 1024
#: 2^23: an integer below it, put in the low bits, makes a float32 that is larger by just that.
_MAGIC = tl.constexpr(8388608.0)
_MAGIC_BITS = tl.constexpr(0x4B000000)


@dataclass(frozen=True, slots=True)
class PackedGroups:
    """A weight [out, in] as the kernel reads it; input features beyond the last have code 0."""

    codes: Tensor
    """uint8 [out, chunks * half], of 4-bit codes two a byte; or float8 [out, chunks * half]"""
    scale: Scales
    """values [groups, rows of factors], factor [blocks, rows of factors], in the dtypes that they came in"""
    zero: Tensor | None
    """uint8 [groups, out], or None if one stands for all"""
    minimum: Scales | None
    levels: Tensor | None
    """uint8 [16]: what codes stand for, and 128"""
    offset: int
    """The zero of all features, or what is to be added to `zero`."""
    bits: int
    half: int
    group_size: int
    """0: one group."""
    in_features: int
    dtype: torch.dtype
    """What codes become."""
    outs_of_scale: int = 1
    """Output features that share a row of `scale`."""

    @property
    def quantize_input(self) -> bool:
        return False


def grouped_refusal(in_features: int, group_size: int, *, quantize_input: bool) -> str:
    return "GPU kernels multiply weights in groups by rows in the model's dtype" if quantize_input else ""


def pack_grouped(weight: GroupedWeight, dtype: torch.dtype, *, quantize_input: bool) -> PackedGroups:
    in_features = weight.codes.shape[1]
    if problem := malformed(weight) or grouped_refusal(in_features, weight.group_size, quantize_input=quantize_input):
        raise ValueError(problem)
    zero = weight.zero
    if zero is None:
        offset = 0 if weight.levels is not None else 1 << weight.bits - 1
    else:
        offset = 0
        if zero.numel() and bool((zero == zero[0, 0]).all()):
            offset, zero = int(zero[0, 0]), None
    levels = None
    if weight.levels is not None:
        levels, offset = (weight.levels.to(torch.int16) + 128).to(torch.uint8), offset + 128
    half = half_of(in_features, weight.group_size, dtype)
    return PackedGroups(
        codes=laid_out(weight.codes, half, weight.bits),
        scale=_turned(weight.scale),
        zero=None if zero is None else zero.T.contiguous(),
        minimum=None if weight.minimum is None else _turned(weight.minimum),
        levels=levels,
        offset=offset,
        bits=weight.bits,
        half=half,
        group_size=weight.group_size if weight.group_size < in_features else 0,
        in_features=in_features,
        dtype=dtype,
    )


def half_of(in_features: int, group_size: int, dtype: torch.dtype) -> int:
    """Input features of half a chunk. Without tensor cores, for float32, the narrowest: operands are in registers."""
    if dtype == torch.float32:
        return _HALVES[-1]
    return next((half for half in _HALVES if group_size >= in_features or group_size % half == 0), 32)


def laid_out(codes: Tensor, half: int, bits: int) -> Tensor:
    """Codes [out, in] in chunks, see above; of 8 bits only padded."""
    chunk = 2 * half if bits == 4 else half
    out_features, in_features = codes.shape
    padded = codes
    if in_features % chunk:
        padded = codes.new_zeros(out_features, in_features + -in_features % chunk)
        padded[:, :in_features] = codes
    if bits != 4:
        return padded.contiguous()
    halves = padded.view(out_features, -1, 2, half)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).view(out_features, -1)


def _turned(scales: Scales) -> Scales:
    return scales._replace(values=scales.values.T.contiguous(), factor=None if scales.factor is None else scales.factor.T.contiguous())


def linear_grouped(x: Tensor, weight: PackedGroups, bias: Tensor | None, *, deterministic: bool = False) -> Tensor:
    """See `infer.kernels.ops.Ops.linear_grouped`; `deterministic`: rows' bits do not depend on other rows."""
    rows = x.to(weight.dtype)
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    count, outputs = rows.shape[0], weight.codes.shape[0]
    out = torch.empty(count, outputs, dtype=weight.dtype, device=x.device)
    if not out.numel():
        return out.to(x.dtype)
    tile = configs.grouped(rows, deterministic=deterministic)
    tiles = triton.cdiv(count, tile.rows) * triton.cdiv(outputs, tile.outputs)
    chunk = weight.half * (2 if weight.bits == 4 else 1)
    chunks = triton.cdiv(weight.in_features, chunk)
    of_piece, pieces, alone = _pieces(chunks, chunk, tiles, deterministic=deterministic)
    partial = torch.empty(pieces, count, outputs, dtype=torch.float32, device=x.device) if alone else out
    codes, scale, minimum = readable(weight.codes), weight.scale, weight.minimum or weight.scale
    grouped_kernel[(tiles, pieces if alone else 1)](
        *(rows, rows.stride(0), codes, codes.stride(0), scale.values, _or(scale.factor, out)),
        *(minimum.values, _or(minimum.factor, out), _or(weight.zero, out), _or(weight.levels, out), _or(bias, out)),
        *(partial, count, outputs, weight.in_features, chunks, of_piece, weight.offset, scale.values.stride(0), weight.outs_of_scale),
        **_constants(weight, bias=bias is not None and not alone, pieces=not alone and pieces > 1, partial=alone),
        ROWS=tile.rows, OUTPUTS=tile.outputs, num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=False,
    )  # fmt: skip
    if alone:
        sum_pieces_kernel[(count, triton.cdiv(outputs, _SUM_BLOCK))](
            partial, _or(bias, out), out, outputs, pieces, BIAS=bias is not None, BLOCK=_SUM_BLOCK, num_warps=4
        )
    return out.to(x.dtype)


def _pieces(chunks: int, chunk: int, tiles: int, *, deterministic: bool) -> tuple[int, int, bool]:
    """(chunks of a piece, pieces, whether each has programs of its own).

    They are cut by the number of input features alone where bits must not depend on the number of rows.
    """
    least = triton.cdiv(PIECE, chunk)
    if deterministic:
        pieces = triton.cdiv(chunks, least)
        return least, pieces, pieces > 1 and tiles < ENOUGH_PROGRAMS
    pieces = max(1, min(chunks // least, triton.cdiv(ENOUGH_PROGRAMS, tiles))) if tiles < ENOUGH_PROGRAMS // 2 else 1
    of_piece = triton.cdiv(chunks, pieces)
    pieces = triton.cdiv(chunks, of_piece)
    return of_piece, pieces, pieces > 1


def _constants(weight: PackedGroups, *, bias: bool, pieces: bool, partial: bool) -> dict[str, Any]:
    minimum = weight.minimum
    return {
        "BITS": weight.bits,
        "HALF": weight.half,
        "GROUP": weight.group_size,
        "SCALE_BLOCK": weight.scale.per_block if weight.scale.factor is not None else 0,
        "MINIMUM": minimum is not None,
        "MINIMUM_BLOCK": minimum.per_block if minimum is not None and minimum.factor is not None else 0,
        "ZERO": weight.zero is not None,
        "LEVELS": weight.levels is not None,
        "FLOATS": weight.codes.is_floating_point(),
        "BIAS": bias,
        "PIECES": pieces,
        "PARTIAL": partial,
    }


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """Kernels take a tensor, if one they do not look at."""
    return other if tensor is None else tensor


@triton.jit
def _integer(code):
    """uint8 as float32, 2^23 above what it is: an integer conversion would take four times as long."""
    return (code.to(tl.int32) | _MAGIC_BITS).to(tl.float32, bitcast=True)


@triton.jit
def _factor(values, blocks, place, group, stride, BLOCK: tl.constexpr):
    """float32: the scales (or minimums) of groups, at their place in the group's row."""
    found = tl.load(values + group * stride + place).to(tl.float32)
    if BLOCK > 0:
        found *= tl.load(blocks + group // BLOCK * stride + place).to(tl.float32)
    return found


@triton.jit
def _add_half(
    acc, code, x_rows, start, output, scale_place, scale, scale_factor, minimum, minimum_factor, zero, levels,
    outputs, depth, offset, scale_stride,
    HALF: tl.constexpr, GROUP: tl.constexpr, SCALE_BLOCK: tl.constexpr, MINIMUM: tl.constexpr, MINIMUM_BLOCK: tl.constexpr,
    ZERO: tl.constexpr, LEVELS: tl.constexpr, FLOATS: tl.constexpr,
):  # fmt: skip
    """acc [OUTPUTS, ROWS] + the product of codes [OUTPUTS, HALF] and of the rows' features from `start` on."""
    k = start + tl.arange(0, HALF)
    x = tl.load(x_rows + k[None, :], mask=(k < depth)[None, :], other=0.0)
    # Features beyond the last have the factors of the last, which are numbers if any of it is.
    if GROUP == 0:
        group = tl.zeros([1, 1], tl.int32)
    elif GROUP % HALF == 0:
        group = tl.zeros([1, 1], tl.int32) + tl.minimum(start, depth - 1) // GROUP
    else:
        group = (tl.minimum(k, depth - 1) // GROUP)[None, :]
    if FLOATS:
        if code.dtype == tl.uint8:
            value = from_e4m3(code)
        else:
            value = code.to(tl.float32)
    else:
        if LEVELS:
            code = tl.load(levels + code.to(tl.int32))
        if ZERO:
            zeros = tl.load(zero + group * outputs + output[:, None]).to(tl.int32) + offset
        else:
            zeros = offset
        value = _integer(code) - (_MAGIC + zeros.to(tl.float32))
    value = value * _factor(scale, scale_factor, scale_place[:, None], group, scale_stride, SCALE_BLOCK)
    if MINIMUM:
        value = value + _factor(minimum, minimum_factor, output[:, None], group, outputs, MINIMUM_BLOCK)
    return dot_add(narrowed(value, x.dtype), tl.trans(x), acc)


@triton.jit(do_not_specialize=["count", "chunks", "of_piece", "offset", "outs_of_scale"])
def grouped_kernel(
    x, x_stride, codes, codes_stride, scale, scale_factor, minimum, minimum_factor, zero, levels, bias,
    out, count, outputs, depth, chunks, of_piece, offset, scale_stride, outs_of_scale,
    BITS: tl.constexpr, HALF: tl.constexpr, GROUP: tl.constexpr, SCALE_BLOCK: tl.constexpr, MINIMUM: tl.constexpr,
    MINIMUM_BLOCK: tl.constexpr, ZERO: tl.constexpr, LEVELS: tl.constexpr, FLOATS: tl.constexpr, BIAS: tl.constexpr,
    PIECES: tl.constexpr, PARTIAL: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of rows, then of outputs; pieces if PARTIAL). `out` [count, outputs], or float32 [pieces, count, outputs]."""
    row_tiles = tl.cdiv(count, ROWS)
    row = (tl.program_id(0) % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    output = (tl.program_id(0) // row_tiles).to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
    # Rows and outputs past the end read the last one, and are not written.
    x_rows = x + tl.minimum(row, count - 1)[:, None] * x_stride
    own = tl.minimum(output, outputs - 1)
    scale_place = own // outs_of_scale
    bytes_of = codes + own[:, None] * codes_stride + tl.arange(0, HALF)[None, :]
    total = tl.zeros([OUTPUTS, ROWS], tl.float32)
    first = tl.program_id(1)
    last = first + 1
    if PIECES:
        last = tl.cdiv(chunks, of_piece)
    for piece in range(first, last):
        acc = tl.zeros([OUTPUTS, ROWS], tl.float32)
        for chunk in range(piece * of_piece, tl.minimum((piece + 1) * of_piece, chunks)):
            code = tl.load(bytes_of + chunk * HALF)
            if BITS == 4:
                acc = _add_half(
                    acc, code & 15, x_rows, chunk * (2 * HALF), own, scale_place, scale, scale_factor, minimum, minimum_factor, zero,
                    levels, outputs, depth, offset, scale_stride, HALF, GROUP, SCALE_BLOCK, MINIMUM, MINIMUM_BLOCK, ZERO, LEVELS, FLOATS,
                )  # fmt: skip
                acc = _add_half(
                    acc, code >> 4, x_rows, chunk * (2 * HALF) + HALF, own, scale_place, scale, scale_factor, minimum, minimum_factor,
                    zero, levels, outputs, depth, offset, scale_stride,
                    HALF, GROUP, SCALE_BLOCK, MINIMUM, MINIMUM_BLOCK, ZERO, LEVELS, FLOATS,
                )  # fmt: skip
            else:
                acc = _add_half(
                    acc, code, x_rows, chunk * HALF, own, scale_place, scale, scale_factor, minimum, minimum_factor, zero,
                    levels, outputs, depth, offset, scale_stride, HALF, GROUP, SCALE_BLOCK, MINIMUM, MINIMUM_BLOCK, ZERO, LEVELS, FLOATS,
                )  # fmt: skip
        total += acc
    if BIAS:
        total += tl.load(bias + own).to(tl.float32)[:, None]
    place = out + row[None, :] * outputs + output[:, None]
    if PARTIAL:
        place += first.to(tl.int64) * count * outputs
    tl.store(place, narrowed(total, out.dtype.element_ty), mask=(row < count)[None, :] & (output < outputs)[:, None])


@triton.jit(do_not_specialize=["pieces"])
def sum_pieces_kernel(partial, bias, out, outputs, pieces, BIAS: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (rows, outputs by BLOCK): the pieces of `partial` [pieces, rows, outputs] added up in order."""
    row = tl.program_id(0).to(tl.int64)
    output = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = output < outputs
    total = tl.zeros([BLOCK], tl.float32)
    place = partial + row * outputs + output
    for _ in range(pieces):
        total += tl.load(place, mask=real, other=0.0)
        place += tl.num_programs(0).to(tl.int64) * outputs
    if BIAS:
        total += tl.load(bias + output, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row * outputs + output, narrowed(total, out.dtype.element_ty), mask=real)


#: Forms that are compiled ahead of time: bits, group, scales, zeros, minimums, table; of a checkpoint each.
_FORMS = {
    "W4 groups of 128": (4, 64, 128, "*fp16", 0, True, False, False),
    "W4 groups of 32, minimum by blocks": (4, 32, 32, "*u8", 8, False, True, False),
    "W4 table": (4, 32, 32, "*fp16", 0, False, False, True),
    "W8 rows": (8, 64, 0, "*fp32", 0, False, False, False),
    "W8 groups of 16, scales by blocks": (8, 16, 16, "*i8", 16, False, False, False),
}
#: The same of fp8.py.
_FLOATS = {
    "floats by rows": (8, 64, 0, "*fp32", 0, False, False, False),
    "floats in blocks of 128": (8, 64, 128, "*fp32", 0, False, False, False),
}


def signatures() -> list[Signature]:
    """Each form in each class of tiles, in both dtypes of tensor cores; float32 once."""
    found = []
    for target in TARGETS:
        for kind in configs.GROUPED_KINDS:
            for form in _FORMS:
                for dtype in ("bf16", "fp16") if form.startswith("W4 groups of 128") else ("bf16",):
                    found.append(signature(kind, target, form, dtype))
        found.append(signature("fixed", target, "W4 groups of 128", "fp32"))
    types = {"partial": "*fp32", "bias": "*bf16", "out": "*bf16", "outputs": "i32:16", "pieces": "i32"}
    return [*found, Signature(sum_pieces_kernel, "sum_pieces", types, {"BIAS": True, "BLOCK": _SUM_BLOCK})]


def signature(kind: str, target: Target, form: str, dtype: str, codes: str = "*u8") -> Signature:
    """A form in a class of tiles; `codes`: what it is stored as."""
    size = 4 if dtype == "fp32" else 2
    tile = configs.GROUPED[kind, target.row, size]
    bits, half, group, scale, block, zero, minimum, table = (_FORMS | _FLOATS)[form]
    factor = "*fp16" if block else f"*{dtype}"
    types = {
        "x": f"*{dtype}", "x_stride": "i32:16", "codes": codes, "codes_stride": "i32:16", "scale": scale, "scale_factor": factor,
        "minimum": scale, "minimum_factor": factor, "zero": "*u8" if zero else f"*{dtype}", "levels": "*u8" if table else f"*{dtype}",
        "bias": f"*{dtype}", "out": "*fp32" if kind == "few" else f"*{dtype}", "count": "i32", "outputs": "i32:16", "depth": "i32:16",
        "chunks": "i32", "of_piece": "i32", "offset": "i32", "scale_stride": "i32:16", "outs_of_scale": "i32",
    }  # fmt: skip
    constexprs = {
        "BITS": bits, "HALF": half if size == 2 else _HALVES[-1], "GROUP": group, "SCALE_BLOCK": block, "MINIMUM": minimum,
        "MINIMUM_BLOCK": block if minimum else 0, "ZERO": zero, "LEVELS": table, "FLOATS": form in _FLOATS, "BIAS": kind != "few",
        "PIECES": kind == "fixed", "PARTIAL": kind == "few", "ROWS": tile.rows, "OUTPUTS": tile.outputs,
    }  # fmt: skip
    name = f"linear_grouped {kind} {form} {dtype}{'' if codes == '*u8' else ' ' + codes[1:]}"
    # Triton 3.6 leaves float32, which has no tensor cores, few registers, and 16 bytes spill.
    limit = 32 if size == 4 else 0
    launched = (tile.num_warps, tile.num_stages, size == 2, (target.name,))
    return Signature(grouped_kernel, name, types, constexprs, *launched, spill_limit=limit)
