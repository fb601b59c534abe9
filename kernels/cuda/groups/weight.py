"""A weight in groups as the kernel reads it.

Layout: output features one below the other, input features in chunks of two halves; a byte of 4-bit codes has one of the first half in
its low bits and that of the same place in the second half in its high bits. A tile of bytes is thus two tiles of the weight, without a
shuffle. A half lies in one group wherever groups are multiples of 16 features, so factors are loaded once for each output and half.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...grouped import GroupedWeight, Scales, malformed

#: Halves of chunks, largest first: the most that lie in one group are taken. Tensor cores take 16 features at once.
HALVES = (64, 32, 16)


@dataclass(frozen=True)
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

    @functools.cached_property
    def parts(self) -> tuple[Tensor | None, ...]:
        """The tensors, in the order in which the kernel takes them."""
        minimum = self.minimum or Scales(self.scale.values)
        return self.codes, *self.scale[:2], *minimum[:2], self.zero, self.levels

    @functools.cached_property
    def places(self) -> tuple[int, ...]:
        """Where these begin, in their elements; 0 for one that is not there. And the offset."""
        return *(0 if part is None else part.data_ptr() // part.element_size() for part in self.parts), self.offset

    @functools.cached_property
    def form(self) -> tuple[Any, ...]:
        """Equal for weights that are multiplied together."""
        kinds = [None if part is None else (part.dtype, part.shape) for part in self.parts]
        blocks = self.scale.per_block, self.minimum is None, self.minimum and self.minimum.per_block
        return self.bits, self.half, self.group_size, self.dtype, self.outs_of_scale, *blocks, *kinds


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
        return HALVES[-1]
    return next((half for half in HALVES if group_size >= in_features or group_size % half == 0), 32)


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
