"""Multiplication by weights in groups, kept in memory as small as they come: our own kernel, for CPUs with AVX-512. See src/grouped.cpp.

Rows in the model's dtype are multiplied by panels widened to it as they are needed, with the sums of a plain weight's multiplication.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import features
from ..grouped import GroupedWeight, Scales, malformed, steps
from ..reference.grouped import dequantize_grouped
from . import gemm
from .gemm import PANEL
from .library import DTYPES, function

__all__ = ["dequantize_grouped", "grouped_refusal", "linear_grouped", "pack_grouped"]

#: Features that a dot product takes at once.
QUAD = 4
#: Same numbers as `ByteType` in src/grouped.h.
_DTYPES = {**DTYPES, torch.uint8: 3, torch.int8: 4}
#: What stands for 0 in tables of levels: codes are the unsigned side of dot products.
_LEVEL_ZERO = 128
#: `LIFT` in src/grouped.cpp.
_MOST_LIFTED = 128

#: Numbers that each thread quantizes for itself, at most: in about the time in which threads meet.
_FEW = 12288

_kinds = function("infer_grouped_kinds", "p")
# The third argument is the address of a `_Grouped`.
_quantized = function("infer_grouped", "ppippiii")
_plain = function("infer_grouped_plain", "ppipiii")


@dataclass(frozen=True)
class PackedGrouped:
    """A weight [out, in] as the kernel reads it; features beyond the last are zeros."""

    codes: Tensor
    """uint8 [panels, in / QUAD, 64], two codes of 4 bits a byte, or [.., 128]"""
    scale: Scales
    """[panels, groups, PANEL], in the dtypes that they came in"""
    zero: Tensor | None
    """uint8 [panels, groups, PANEL], or None if one stands for all"""
    minimum: Scales | None
    levels: Tensor | None
    """uint8 [16]: with _LEVEL_ZERO for 0"""
    offset: int
    """The zero of all features, or what is to be added to `zero`."""
    lifted: bool
    """Zeros are taken from codes as they are unpacked: of 4 bits, without levels, and no zero above _MOST_LIFTED."""
    group_size: int
    out_features: int
    in_features: int
    dtype: torch.dtype | None
    """The type that panels are widened to; None: rows are quantized."""

    @property
    def quantize_input(self) -> bool:
        return self.dtype is None

    @functools.cached_property
    def form(self) -> str:
        """Equal for weights that are multiplied together. Interned: many are compared at every step."""
        factors = [None if one is None else (one.values.dtype, one.factor is None, one.per_block) for one in (self.scale, self.minimum)]
        return sys.intern(
            repr(
                (
                    self.codes.shape,
                    self.in_features,
                    self.out_features,
                    self.group_size,
                    self.levels is None,
                    self.lifted,
                    factors,
                    self.dtype,
                )
            )
        )

    @functools.cached_property
    def address(self) -> int:
        """Of what the kernel is told of it, which stays as long as this."""
        return ctypes.addressof(self._described)

    @functools.cached_property
    def _described(self) -> _Grouped:
        return _Grouped(
            self.codes.data_ptr(),
            _address(self.levels),
            _address(self.zero),
            _described_scales(self.scale),
            _described_scales(self.minimum),
            self.out_features,
            self.in_features // QUAD,
            4 if self.codes.shape[-1] == 64 else 8,
            self.group_size // QUAD,
            self.offset,
            self.lifted,
        )


class _Scales(ctypes.Structure):
    _fields_ = (
        ("values", ctypes.c_void_p),
        ("factor", ctypes.c_void_p),
        ("dtype", ctypes.c_int64),
        ("factor_dtype", ctypes.c_int64),
        ("per_block", ctypes.c_int64),
    )


class _Grouped(ctypes.Structure):
    """`Grouped` in src/grouped.h."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("levels", ctypes.c_void_p),
        ("zero", ctypes.c_void_p),
        ("scale", _Scales),
        ("minimum", _Scales),
        ("n", ctypes.c_int64),
        ("quads", ctypes.c_int64),
        ("bits", ctypes.c_int64),
        ("group", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("lifted", ctypes.c_int64),
    )


@functools.cache
def _compiled() -> int:
    kinds = torch.zeros(1, dtype=torch.int64)
    _kinds(kinds)
    return int(kinds)


def grouped_refusal(in_features: int, group_size: int, *, quantize_input: bool) -> str:
    if quantize_input and not (_compiled() & 1 and "avx512_vnni" in features.features()):
        return "the CPU has no AVX-512 VNNI, or the compiler does not know it"
    if not quantize_input and not _compiled() & 2:
        return "the CPU has no AVX-512, or the compiler does not know it"
    if in_features % QUAD or (group_size < in_features and group_size % QUAD):
        return f"{in_features} input features in groups of {group_size} are not multiples of {QUAD}"
    return ""


def pack_grouped(weight: GroupedWeight, dtype: torch.dtype, *, quantize_input: bool) -> PackedGrouped:
    out_features, in_features = weight.codes.shape
    if problem := malformed(weight) or grouped_refusal(in_features, weight.group_size, quantize_input=quantize_input):
        raise ValueError(problem)
    codes = gemm.pack(weight.codes).words.view(torch.uint8).view(-1, in_features // QUAD, 2, 64)
    codes = codes[:, :, 0] | codes[:, :, 1] << 4 if weight.bits == 4 else codes.reshape(-1, in_features // QUAD, 128)
    zero = weight.zero
    if zero is None:
        offset = 0 if weight.levels is not None else 1 << weight.bits - 1
    else:
        offset = 0
        if zero.numel() and bool((zero == zero[0, 0]).all()):
            offset = int(zero[0, 0])
            zero = None
    levels = None
    if weight.levels is not None:
        levels = (weight.levels.to(torch.int16) + _LEVEL_ZERO).to(torch.uint8)
        offset += _LEVEL_ZERO
    return PackedGrouped(
        codes=codes,
        scale=_scales(weight.scale),
        zero=None if zero is None else _panels(zero),
        minimum=None if weight.minimum is None else _scales(weight.minimum),
        levels=levels,
        offset=offset,
        lifted=weight.bits == 4 and levels is None and zero is not None and bool((zero <= _MOST_LIFTED).all()),
        group_size=min(weight.group_size, in_features),
        out_features=out_features,
        in_features=in_features,
        dtype=None if quantize_input else _panel_dtype(dtype),
    )


def linear_grouped(x: Tensor, weight: PackedGrouped, bias: Tensor | None) -> Tensor:
    rows, count = readable(x, weight), x.shape[0]
    out = torch.empty((count, weight.out_features), dtype=rows.dtype)
    ends = count, DTYPES[rows.dtype], 0 if bias is None else DTYPES[bias.dtype]
    if weight.dtype is None:
        room = None if count * weight.in_features <= _FEW else room_for(count, weight)
        _quantized(out, rows, weight.address, bias, room, *ends)
    else:
        _plain(out, rows, weight.address, bias, *ends)
    return out if out.dtype is x.dtype else out.to(x.dtype)


def readable(x: Tensor, weight: PackedGrouped) -> Tensor:
    """Rows as the kernel reads them."""
    return x.contiguous() if weight.dtype is None else x.to(weight.dtype).contiguous()


def room_for(rows: int, weight: PackedGrouped) -> Tensor:
    """Memory for so many quantized rows."""
    spans, parts = _cuts(weight.in_features, weight.group_size)
    return torch.empty(rows * (weight.in_features // QUAD + spans + parts * (1 if weight.minimum is None else 2)), dtype=torch.int32)


def _panel_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of products: bfloat16 where the CPU has dot products of it, else float32."""
    return dtype if dtype == torch.bfloat16 and gemm.multiplies(dtype) else torch.float32


@functools.lru_cache(maxsize=256)
def _cuts(in_features: int, group_size: int) -> tuple[int, int]:
    """Spans and steps of a row."""
    cuts = [*steps(in_features, group_size)]
    return cuts[-1].span + 1, len(cuts)


def _panels(values: Tensor) -> Tensor:
    """[out, groups] -> [panels, groups, PANEL], zeros beyond out."""
    out, groups = values.shape
    panels = -(-out // PANEL)
    padded = torch.nn.functional.pad(values, (0, 0, 0, panels * PANEL - out))
    return padded.view(panels, PANEL, groups).transpose(1, 2).contiguous()


def _scales(scales: Scales) -> Scales:
    return scales._replace(values=_panels(scales.values), factor=None if scales.factor is None else _panels(scales.factor))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _described_scales(scales: Scales | None) -> _Scales:
    if scales is None:
        return _Scales()
    values, factor, per_block = scales
    factor_dtype = 0 if factor is None else _DTYPES[factor.dtype]
    return _Scales(values.data_ptr(), _address(factor), _DTYPES[values.dtype], factor_dtype, per_block)
