"""Multiplication by weights in groups: integer sums exact in float64, then float32 in a fixed order of input features."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..grouped import GroupedWeight, Step, by_feature, malformed, steps
from ..ops import INT8_ZERO
from .quantize import quantize


class ReferenceGrouped(NamedTuple):
    weight: GroupedWeight
    dtype: torch.dtype
    quantize_input: bool


def grouped_refusal(in_features: int, group_size: int, *, quantize_input: bool) -> str:
    return ""


def dequantize_grouped(weight: GroupedWeight) -> Tensor:
    values = weight.signed().float() * by_feature(weight.scale.widened(), weight)
    return values if weight.minimum is None else values.add_(by_feature(weight.minimum.widened(), weight))


def pack_grouped(weight: GroupedWeight, dtype: torch.dtype, *, quantize_input: bool) -> ReferenceGrouped:
    if problem := malformed(weight):
        raise ValueError(problem)
    return ReferenceGrouped(weight, dtype, quantize_input)


def linear_grouped(x: Tensor, weight: ReferenceGrouped, bias: Tensor | None) -> Tensor:
    if not weight.quantize_input:
        product = F.linear(x.to(weight.dtype).double(), dequantize_grouped(weight.weight).to(weight.dtype).double()).float()
    else:
        product = _product_of_integers(x, weight.weight)
    return (product if bias is None else product + bias.float()).to(x.dtype)


def _product_of_integers(x: Tensor, weight: GroupedWeight) -> Tensor:
    """float32 [N, out] of rows quantized by spans."""
    scale = weight.scale.widened()
    minimum = None if weight.minimum is None else weight.minimum.widened()
    signed = weight.signed().double()
    total = x.new_zeros((x.shape[0], signed.shape[0]), dtype=torch.float32)
    spans: dict[int, list[Step]] = {}
    for step in steps(x.shape[1], weight.group_size):
        spans.setdefault(step.span, []).append(step)
    for parts in spans.values():
        first, end = parts[0].start, parts[-1].stop
        rows = quantize(x[:, first:end])
        values = rows.values.double() - INT8_ZERO
        part = torch.zeros_like(total)
        for start, stop, group, _ in parts:
            of_step = values[:, start - first : stop - first]
            part = _fused(of_step @ signed[:, start:stop].T, scale[:, group], part)
            if minimum is not None:
                part = _fused(of_step.sum(-1, keepdim=True), minimum[:, group], part)
        total = _fused(part, rows.scale[:, None], total)
    return total


def _fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c of float32 values, rounded to float32 once, as processors do it.

    In float64 the product is exact but the sum is not. To round that again goes wrong where it looks like the middle of two float32:
    an inexact sum gets an odd last digit instead, which is never such a middle.
    """
    product, addend = a.double() * b.double(), c.double()
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view(torch.int64)
    away = torch.where((error > 0) == (total > 0), 1, -1)  # the exact sum lies on that side of the rounded one
    odd = torch.where((error != 0) & error.isfinite() & (bits % 2 == 0), bits + away, bits)
    return odd.view(torch.float64).float()
