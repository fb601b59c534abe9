"""Rounding of plain weights to 4 and 8 bits in groups of input features, by the weights alone."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from infer.kernels.grouped import GroupedWeight, Scales

from ..weights.formats.values import Grouped

#: Shares of a group's range that are tried: a few far values may be cut off so that the many others lie closer to a step.
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
#: Numbers that are rounded at a time, so that they and what is tried with them stay in a processor's cache.
_AT_A_TIME = 1 << 18


class Form(Enum):
    """The place of a group's codes, which begin at 0."""

    SYMMETRIC = "symmetric"
    """As many steps below 0 as above, and one more."""
    ZERO = "zero"
    """A code of its own stands for 0."""
    MINIMUM = "minimum"
    """The lowest code stands for any number. Loses 3.5 % less than ZERO with groups of 32, for a byte more a group; weights that were in
    4 bits before come out as they were."""


class Range(NamedTuple):
    """Factors of groups, each float32 [.., 1]: a value is code * scale + low."""

    scale: Tensor
    """0 where all values are the same."""
    low: Tensor
    zero: Tensor
    """The code that stands for 0 where there is one, else 0."""


def round_in_groups(weight: Tensor, bits: int, group_size: int, form: Form, *, shares: tuple[float, ...] = SHARES) -> Grouped:
    """A weight [out, in] to the nearest of 2^bits steps in each group, over the share of its range that has the least squared error.

    Scales and minimums are float16, or float32 where that cannot hold them. What a group gets depends on its own numbers alone.
    """
    out, width = weight.shape
    size = min(group_size, width)
    groups = -(-width // size)
    step = max(1, _AT_A_TIME // max(1, width))
    counts = None if width % size == 0 else (torch.arange(groups * size) < width).float().view(groups, size)
    codes = torch.empty(out, width, dtype=torch.uint8)
    scale, low, zero = torch.empty(out, groups), torch.empty(out, groups), torch.zeros(out, groups, dtype=torch.uint8)
    for start in range(0, out, step):
        part = _in_groups(weight[start : start + step].float(), groups, size)
        best = best_range(part, bits, form, shares=shares, importance=counts)
        rows = slice(start, start + len(part))
        codes[rows] = codes_of(part, best, bits).flatten(1)[:, :width].to(torch.uint8)
        scale[rows], low[rows], zero[rows] = (one[..., 0] for one in best)
    stored = None if form is Form.SYMMETRIC else zero
    minimum = Scales(_narrowed(low)) if form is Form.MINIMUM else None
    return Grouped(GroupedWeight(codes, 4 if bits <= 4 else 8, size, Scales(_narrowed(scale)), stored, minimum))


def best_range(values: Tensor, bits: int, form: Form, *, shares: tuple[float, ...] = SHARES, importance: Tensor | None = None) -> Range:
    """The factors of groups, float32 [.., size], over the share of their range with the least squared error.

    `importance` [.., size]: of the squared error of each value.
    """
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    best: Range | None = None
    least = torch.empty(0)
    for share in shares:
        one = _range(low, high, share, bits, form)
        squares = (dequantized(codes_of(values, one, bits), one) - values).square_()
        error = (squares if importance is None else squares.mul_(importance)).sum(-1, keepdim=True)
        if best is None:
            best, least = one, error
        else:
            better = error < least
            best = Range(*(new.where(better, old) for new, old in zip(one, best, strict=True)))
            least = torch.minimum(error, least)
    assert best is not None, "no shares"
    return best


def codes_of(values: Tensor, one: Range, bits: int) -> Tensor:
    """The nearest codes, as floats."""
    return ((values - one.low) / one.scale.where(one.scale > 0, 1.0)).round_().clamp_(0, (1 << bits) - 1)


def dequantized(codes: Tensor, one: Range) -> Tensor:
    return codes * one.scale + one.low


def _range(low: Tensor, high: Tensor, share: float, bits: int, form: Form) -> Range:
    most = (1 << bits) - 1
    if form is Form.MINIMUM:
        cut = (high - low) * ((1 - share) / 2)
        scale = _storable((high - low) * share / most)
        return Range(scale, _storable(low + cut, scale), torch.zeros_like(scale))
    if form is Form.SYMMETRIC:
        scale = _storable(torch.maximum(-low, high).mul_(share / (most / 2)))
        zero = torch.full_like(scale, 1 << bits - 1)
    else:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = _storable((high - low) * share / most)
        zero = (-low * share / scale.where(scale > 0, 1.0)).round_().clamp_(0, most)
    return Range(scale, -zero * scale, zero)


def _in_groups(rows: Tensor, groups: int, size: int) -> Tensor:
    """[N, groups, size]; a row's last number fills up its last group, and does not change its range."""
    missing = groups * size - rows.shape[1]
    return torch.cat([rows, rows[:, -1:].expand(-1, missing)], 1).unflatten(1, (groups, size))


def _storable(values: Tensor, step: Tensor | None = None) -> Tensor:
    """Values as float16 has them, but where that is far off: by an eighth of `step`, or a part in thirty-two."""
    half = values.half().float()
    far = values.abs() / 32 if step is None else torch.maximum(step / 8, values.abs() / 1024 * (step == 0))
    return half.where((half - values).abs() <= far, values)


def _narrowed(values: Tensor) -> Tensor:
    """In float16 if nothing is lost."""
    half = values.half()
    return half if torch.equal(half.float(), values) else values
