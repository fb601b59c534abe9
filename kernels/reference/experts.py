"""Multiplication of rows by the weights of their experts: expert by expert, its rows padded as those of any multiplication are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import INT8_ZERO, ROW_MULTIPLE, Rows, ScaledRows
from .grouped import ReferenceGrouped, linear_grouped
from .int8 import Int8Weight, linear_int8
from .linear import linear


def linear_experts(x: Tensor, weights: Sequence[Tensor], starts: Tensor, biases: Sequence[Tensor] | None, row_chunk: int) -> Tensor:
    def multiply(expert: int, rows: Rows) -> Rows:
        assert isinstance(rows, Tensor)
        return linear(rows, weights[expert], bias_of(biases, expert), row_chunk)

    product = by_expert(x, starts, multiply)
    assert isinstance(product, Tensor)
    return product


def linear_experts_int8(
    x: ScaledRows, weights: Sequence[Int8Weight], starts: Tensor, biases: Sequence[Tensor] | None, dtype: torch.dtype
) -> Rows:
    def multiply(expert: int, rows: Rows) -> Rows:
        assert isinstance(rows, ScaledRows)
        return linear_int8(rows, weights[expert], bias_of(biases, expert), dtype)

    return by_expert(x, starts, multiply)


def linear_experts_grouped(x: Tensor, weights: Sequence[ReferenceGrouped], starts: Tensor, biases: Sequence[Tensor] | None) -> Tensor:
    return grouped_by_expert(linear_grouped, x, weights, starts, biases)


def grouped_by_expert(
    multiply: Callable[..., Tensor], x: Tensor, weights: Sequence[Any], starts: Tensor, biases: Sequence[Tensor] | None
) -> Tensor:
    """Expert by expert as `multiply(x, weight, bias)` does one."""
    product = by_expert(x, starts, lambda expert, rows: multiply(rows, weights[expert], bias_of(biases, expert)))
    assert isinstance(product, Tensor)
    return product


def bias_of(biases: Sequence[Tensor] | None, expert: int) -> Tensor | None:
    return None if biases is None else biases[expert]


def by_expert(x: Rows, starts: Tensor, multiply: Callable[[int, Rows], Rows]) -> Rows:
    """The products of each expert's rows [starts[e], starts[e + 1]) of x [P, in], as `multiply(expert, rows)` gives them.

    It gets a multiple of ROW_MULTIPLE of rows, those beyond the expert's own being zeros. Where no expert has rows it gets such rows alone.
    """
    bounds = starts.tolist()
    parts = []
    for expert, (start, stop) in enumerate(pairwise(bounds)):
        if stop > start:
            parts.append(_cut(multiply(expert, _padded(x, start, stop)), stop - start))
    left = len(_values(x)) - bounds[-1]
    if left or not parts:  # rows of nobody
        parts.append(_repeated(_cut(multiply(0, _padded(x, 0, 0)), 1), left))
    if isinstance(parts[0], ScaledRows):
        return ScaledRows(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    return torch.cat([part for part in parts if isinstance(part, Tensor)])


def _repeated(row: Rows, count: int) -> Rows:
    return ScaledRows(row.values.expand(count, -1), row.scale.expand(count)) if isinstance(row, ScaledRows) else row.expand(count, -1)


def _values(x: Rows) -> Tensor:
    return x.values if isinstance(x, ScaledRows) else x


def _padded(x: Rows, start: int, stop: int) -> Rows:
    more = -(stop - start) % ROW_MULTIPLE or (ROW_MULTIPLE if start == stop else 0)
    if isinstance(x, ScaledRows):
        values = F.pad(x.values[start:stop], (0, 0, 0, more), value=INT8_ZERO)
        return ScaledRows(values, F.pad(x.scale[start:stop], (0, more)))
    return F.pad(x[start:stop], (0, 0, 0, more))


def _cut(rows: Rows, count: int) -> Rows:
    return ScaledRows(rows.values[:count], rows.scale[:count]) if isinstance(rows, ScaledRows) else rows[:count]
