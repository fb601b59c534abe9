"""The kernel of weights in groups: a tile of the weight is widened and multiplied, chunk by chunk of input features; see weight.py."""

from __future__ import annotations

from dataclasses import replace

import triton
import triton.language as tl

from .. import configs
from ..experts import rows_of
from ..narrow import from_e4m3, narrowed
from ..signature import TARGETS, Signature, Target
from ..tiles import dot_add
from .weight import HALVES

#: Output features that a program of `sum_pieces_kernel` adds up.
SUM_BLOCK = 1024
#: 2^23: an integer below it, put in the low bits, makes a float32 that is larger by just that.
_MAGIC = tl.constexpr(8388608.0)
_MAGIC_BITS = tl.constexpr(0x4B000000)


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


@triton.jit(do_not_specialize=["count", "chunks", "of_piece", "offset", "outs_of_scale", "experts"])
def grouped_kernel(
    x, x_stride, codes, codes_stride, scale, scale_factor, minimum, minimum_factor, zero, levels, bias, starts, table,
    out, count, outputs, depth, chunks, of_piece, offset, scale_stride, outs_of_scale, experts,
    BITS: tl.constexpr, HALF: tl.constexpr, GROUP: tl.constexpr, SCALE_BLOCK: tl.constexpr, MINIMUM: tl.constexpr,
    MINIMUM_BLOCK: tl.constexpr, ZERO: tl.constexpr, LEVELS: tl.constexpr, FLOATS: tl.constexpr, BIAS: tl.constexpr,
    PIECES: tl.constexpr, PARTIAL: tl.constexpr, EXPERTS: tl.constexpr, ALIGNED: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of rows, then of outputs; pieces if PARTIAL). `out` [count, outputs], or float32 [pieces, count, outputs].

    With EXPERTS, at least their number, a tile of rows is one expert's: see experts.py; `table` as grouped.py makes it.
    """
    if EXPERTS > 0:
        row_tiles = (count + tl.minimum(experts, count) * (ROWS - 1)) // ROWS
        expert, first_row, end = rows_of(tl.program_id(0) % row_tiles, starts, experts, EXPERTS, ROWS)
        if expert >= experts:
            return
        row = first_row + tl.arange(0, ROWS)
        place_in_table = table + expert
        away = tl.load(place_in_table)
        codes += tl.multiple_of(away, 16) if ALIGNED else away
        scale += tl.load(place_in_table + experts)
        scale_factor += tl.load(place_in_table + 2 * experts)
        minimum += tl.load(place_in_table + 3 * experts)
        minimum_factor += tl.load(place_in_table + 4 * experts)
        zero += tl.load(place_in_table + 5 * experts)
        levels += tl.load(place_in_table + 6 * experts)
        bias += tl.load(place_in_table + 7 * experts)
        offset = tl.load(place_in_table + 8 * experts).to(tl.int32)
    else:
        row_tiles = tl.cdiv(count, ROWS)
        row = (tl.program_id(0) % row_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        end = count
    output = (tl.program_id(0) // row_tiles).to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
    # Rows and outputs past the end read the last one, and are not written.
    x_rows = x + tl.minimum(row, end - 1)[:, None] * x_stride
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
    tl.store(place, narrowed(total, out.dtype.element_ty), mask=(row < end)[None, :] & (output < outputs)[:, None])


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
        for kind, form in (("some", "W4 table"), ("fixed", "W4 groups of 32, minimum by blocks"), ("few", "W4 groups of 128")):
            found.append(of_experts(signature(kind, target, form, "bf16")))
    types = {"partial": "*fp32", "bias": "*bf16", "out": "*bf16", "outputs": "i32:16", "pieces": "i32"}
    for name, bias in (("sum_pieces", True), ("sum_pieces without bias", False)):
        found.append(Signature(sum_pieces_kernel, name, types, {"BIAS": bias, "BLOCK": SUM_BLOCK}))
    return found


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
        "chunks": "i32", "of_piece": "i32", "offset": "i32", "scale_stride": "i32:16", "outs_of_scale": "i32", "experts": "i32",
    }  # fmt: skip
    constexprs = {
        "BITS": bits, "HALF": half if size == 2 else HALVES[-1], "GROUP": group, "SCALE_BLOCK": block, "MINIMUM": minimum,
        "MINIMUM_BLOCK": block if minimum else 0, "ZERO": zero, "LEVELS": table, "FLOATS": form in _FLOATS, "BIAS": kind != "few",
        "PIECES": kind == "fixed", "PARTIAL": kind == "few", "ROWS": tile.rows, "OUTPUTS": tile.outputs,
        "EXPERTS": 0, "ALIGNED": False, "starts": None, "table": None,
    }  # fmt: skip
    name = f"linear_grouped {kind} {form} {dtype}{'' if codes == '*u8' else ' ' + codes[1:]}"
    # Triton 3.6 leaves float32, which has no tensor cores, few registers, and 16 bytes spill.
    limit = 32 if size == 4 else 0
    launched = (tile.num_warps, tile.num_stages, size == 2, (target.name,))
    return Signature(grouped_kernel, name, types, constexprs, *launched, spill_limit=limit)


def of_experts(one: Signature) -> Signature:
    """The same by the weights of many experts."""
    constexprs = {name: value for name, value in one.constexprs.items() if name not in ("starts", "table")}
    constexprs |= {"EXPERTS": 128, "ALIGNED": True, "PARTIAL": False, "BIAS": True}
    types = one.types | {"starts": "*i64", "table": "*i64", "out": one.types["x"]}
    return replace(one, name=one.name.replace("linear_grouped", "linear_experts_grouped"), types=types, constexprs=constexprs)
