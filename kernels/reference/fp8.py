"""Multiplication by weights of 8-bit floats, summed in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..fp8 import Fp8Weight, malformed, rounded_rows


class ReferenceFp8(NamedTuple):
    weight: Fp8Weight
    dtype: torch.dtype
    quantize_input: bool


def fp8_refusal(shape: tuple[int, int], block: tuple[int, int], dtype: torch.dtype, *, quantize_input: bool) -> str:
    return needs_row_scales(shape, block) if quantize_input else ""


def needs_row_scales(shape: tuple[int, int], block: tuple[int, int]) -> str:
    """The refusal of quantized rows where a row of the weight has several scales."""
    return "" if block[1] >= shape[1] else "rows are quantized only for weights with one scale an output feature, or one for all"


def pack_fp8(weight: Fp8Weight, dtype: torch.dtype, *, quantize_input: bool) -> ReferenceFp8:
    if problem := malformed(weight) or fp8_refusal((*weight.values.shape,), weight.block, dtype, quantize_input=quantize_input):
        raise ValueError(problem)
    return ReferenceFp8(weight, dtype, quantize_input)


def linear_fp8(x: Tensor, weight: ReferenceFp8, bias: Tensor | None) -> Tensor:
    if weight.quantize_input:
        values, scale = rounded_rows(x)
        product = (values.double() @ weight.weight.values.double().T).float() * weight.weight.row_scales() * scale[:, None]
    else:
        product = F.linear(x.to(weight.dtype).double(), weight.weight.widened().to(weight.dtype).double()).float()
    return (product if bias is None else product + bias.float()).to(x.dtype)
