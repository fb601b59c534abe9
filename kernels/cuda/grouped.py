"""Multiplication by weights in groups: codes of 4 and 8 bits become the model's dtype inside the product, on their way to tensor cores.

A weight is read as it is stored, so that few rows take a quarter or half of a plain weight's time. The weight's tile is the product's
first side and the rows its second: instructions for 64 of one and 8 to 256 of the other then fit few rows as well as many.

Sums are made piece by piece of the input features, in order. Few rows have too few tiles to keep a device busy: pieces then go to
programs of their own, and are added up in order by a second kernel. Where `deterministic` is asked for, tile and pieces are the same
for any number of rows, and one program adds up the pieces of many rows in the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..reference.experts import grouped_by_expert
from ..reference.grouped import dequantize_grouped
from . import configs
from .configs import cdiv, next_power_of_2
from .experts import ALIGNED, most_tiles
from .groups.kernel import SUM_BLOCK, grouped_kernel, sum_pieces_kernel
from .groups.weight import PackedGroups, grouped_refusal, pack_grouped
from .narrow import readable

__all__ = ["dequantize_grouped", "grouped_refusal", "linear_experts_grouped", "linear_grouped", "pack_grouped"]

#: Programs that keep a device busy: with fewer tiles, pieces have programs of their own.
ENOUGH_PROGRAMS = 512
#: Input features of a piece at least, and of each where bits must not depend on the number of rows.
PIECE = 1024


def linear_grouped(x: Tensor, weight: PackedGroups, bias: Tensor | None, *, deterministic: bool = False) -> Tensor:
    """See `infer.kernels.ops.Ops.linear_grouped`; `deterministic`: rows' bits do not depend on other rows."""
    rows = x.to(weight.dtype)
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    count, outputs = rows.shape[0], weight.codes.shape[0]
    out = torch.empty(count, outputs, dtype=weight.dtype, device=x.device)
    if not out.numel():
        return out.to(x.dtype)
    tile = configs.grouped(rows, count, deterministic=deterministic)
    tiles = cdiv(count, tile.rows) * cdiv(outputs, tile.outputs)
    of_piece, pieces, alone = _pieces(weight, tiles, deterministic=deterministic)
    partial = torch.empty(pieces, count, outputs, dtype=torch.float32, device=x.device) if alone else out
    grid = (tiles, pieces if alone else 1)
    _launch(grid, rows, weight, bias, partial, of_piece, tile, has_bias=bias is not None and not alone, pieces=pieces, partial=alone)
    if alone:
        sum_pieces_kernel[(count, cdiv(outputs, SUM_BLOCK))](
            partial, _or(bias, out), out, outputs, pieces, BIAS=bias is not None, BLOCK=SUM_BLOCK, num_warps=4
        )
    return out.to(x.dtype)


def linear_experts_grouped(
    x: Tensor, weights: Sequence[PackedGroups], starts: Tensor, biases: Sequence[Tensor] | None, *, deterministic: bool = False
) -> Tensor:
    """See `infer.kernels.ops.Ops.linear_experts_grouped`: one launch for all experts, as experts.py has it. There are tiles enough, so
    pieces of input features have no programs of their own."""
    first = weights[0]
    if any(weight.form != first.form for weight in weights):
        multiply = functools.partial(linear_grouped, deterministic=deterministic)
        return grouped_by_expert(multiply, x, weights, starts, biases)
    rows = x.to(first.dtype).contiguous()
    count, outputs, experts = rows.shape[0], first.codes.shape[0], len(weights)
    out = torch.empty(count, outputs, dtype=first.dtype, device=x.device)
    if out.numel():
        tile = configs.grouped(rows, cdiv(count, experts), deterministic=deterministic)
        tiles = most_tiles(count, experts, tile.rows) * cdiv(outputs, tile.outputs)
        of_piece, pieces, _ = _pieces(first, max(tiles, ENOUGH_PROGRAMS), deterministic=deterministic)
        bias = None if biases is None else biases[0]
        added = None if biases is None else tuple(bias.data_ptr() // bias.element_size() for bias in biases)
        table, aligned = _table(tuple(weight.places for weight in weights), added, x.device)
        of_experts = starts, table, experts, aligned
        _launch(
            (tiles, 1),
            rows,
            first,
            bias,
            out,
            of_piece,
            tile,
            has_bias=bias is not None,
            pieces=pieces,
            partial=False,
            of_experts=of_experts,
        )
    return out.to(x.dtype)


@functools.lru_cache(maxsize=1024)
def _table(places: tuple[tuple[int, ...], ...], biases: tuple[int, ...] | None, device: torch.device) -> tuple[Tensor, bool]:
    """int64 [parts + bias + offset, E] on the device: how far each expert's part is from the first one's, and its offset itself; and True
    if all codes lie at multiples of ALIGNED. Kept, as what experts.py makes of addresses."""
    *parts, offsets = zip(*places, strict=True)
    away = [[place - part[0] for place in part] for part in (*parts, biases or (0,) * len(places))]
    return torch.tensor([*away, list(offsets)], device=device), all(distance % ALIGNED == 0 for distance in away[0])


def _launch(
    grid: tuple[int, int], rows: Tensor, weight: PackedGroups, bias: Tensor | None, out: Tensor, of_piece: int, tile: configs.Product,
    *, has_bias: bool, pieces: int, partial: bool, of_experts: tuple[Tensor, Tensor, int, bool] | None = None,
) -> None:  # fmt: skip
    """`of_experts`: starts, table, the number of experts, and whether their codes are aligned."""
    starts, table, experts, aligned = of_experts or (None, None, 0, False)
    _, scale, scale_factor, minimum, minimum_factor, zero, levels = (_or(part, out) for part in weight.parts)
    codes, (count, outputs) = readable(weight.codes), (rows.shape[0], weight.codes.shape[0])
    chunks, scale_stride = cdiv(weight.in_features, _chunk(weight)), weight.scale.values.stride(0)
    grouped_kernel[grid](
        rows, rows.stride(0), codes, codes.stride(0), scale, scale_factor, minimum, minimum_factor, zero, levels, _or(bias, out),
        starts, table, out, count, outputs, weight.in_features, chunks, of_piece, weight.offset, scale_stride, weight.outs_of_scale,
        experts,
        **_constants(weight, bias=has_bias, pieces=not partial and pieces > 1, partial=partial),
        EXPERTS=next_power_of_2(experts) if experts else 0, ALIGNED=aligned,
        ROWS=tile.rows, OUTPUTS=tile.outputs, num_warps=tile.num_warps, num_stages=tile.num_stages, enable_fp_fusion=False,
    )  # fmt: skip


def _pieces(weight: PackedGroups, tiles: int, *, deterministic: bool) -> tuple[int, int, bool]:
    """See `pieces_of`."""
    chunk = _chunk(weight)
    return pieces_of(cdiv(weight.in_features, chunk), chunk, tiles, deterministic=deterministic)


def _chunk(weight: PackedGroups) -> int:
    """Input features of a chunk."""
    return weight.half * (2 if weight.bits == 4 else 1)


def pieces_of(chunks: int, chunk: int, tiles: int, *, deterministic: bool) -> tuple[int, int, bool]:
    """(chunks of a piece, pieces, whether each has programs of its own).

    They are cut by the number of input features alone where bits must not depend on the number of rows.
    """
    least = cdiv(PIECE, chunk)
    if deterministic:
        pieces = cdiv(chunks, least)
        return least, pieces, pieces > 1 and tiles < ENOUGH_PROGRAMS
    pieces = max(1, min(chunks // least, cdiv(ENOUGH_PROGRAMS, tiles))) if tiles < ENOUGH_PROGRAMS // 2 else 1
    of_piece = cdiv(chunks, pieces)
    pieces = cdiv(chunks, of_piece)
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
