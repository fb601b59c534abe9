"""Narrow number types: loading, rounding and storing.

GPUs before CUDA's compute capability 8.9 cannot convert float8 e4m3: a cache of that type is handed to kernels as uint8 there, and
goes by its bits. So does everything below float16 in the interpreter, whose own conversions do not round to the nearest.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_EMULATED = tl.constexpr(triton.knobs.runtime.interpret)


def converts_e4m3(device: torch.device) -> bool:
    """True if kernels may convert e4m3 there; anything but an older CUDA device can."""
    return device.type != "cuda" or torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 9)


def readable(cache: Tensor) -> Tensor:
    """The cache as kernels take it: as uint8 where they go by e4m3's bits."""
    if cache.dtype == torch.float8_e4m3fn and not converts_e4m3(cache.device):
        return cache.view(torch.uint8)
    return cache


@triton.jit
def load_as(pointers, mask, kind: tl.constexpr):
    """Loads numbers of a cache as `kind`, 0 where masked (mask None: nowhere); uint8 is e4m3 by its bits."""
    if mask is None:
        x = tl.load(pointers)
    else:
        x = tl.load(pointers, mask=mask, other=0.0)
    if x.dtype == tl.uint8:
        return narrowed(from_e4m3(x), kind)
    return x.to(kind)


@triton.jit
def store_as(pointers, x, mask):
    """Stores float32 numbers as what the pointers point to."""
    tl.store(pointers, narrowed(x, pointers.dtype.element_ty), mask=mask)


@triton.jit
def narrowed(x, kind: tl.constexpr):
    """float32 x as `kind` (uint8: e4m3 by its bits), rounded to the nearest, ties to even.

    What float8 cannot hold becomes its largest finite number (the conversion alone would make e4m3 NaN of it); NaN stays NaN.
    """
    if kind == tl.uint8:
        return to_float8(x, 3, 7, 448.0)
    if kind == tl.float8e4nv:
        if _EMULATED:
            return to_float8(x, 3, 7, 448.0).to(kind, bitcast=True)
        return _clamped(x, 448.0).to(kind)
    if kind == tl.float8e5:
        if _EMULATED:
            return to_float8(x, 2, 15, 57344.0).to(kind, bitcast=True)
        return _clamped(x, 57344.0).to(kind)
    if _EMULATED and kind == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(tl.abs(x) >= 0, rounded, 0x7FC0).to(tl.int16).to(kind, bitcast=True)
    return x.to(kind)


@triton.jit
def _clamped(x, most: tl.constexpr):
    """x in [-most, most]; NaN stays NaN."""
    return tl.where(x > most, most, tl.where(x < -most, -most, x))


@triton.jit
def from_e4m3(bits):
    """uint8 -> float32. The exponent's bias is 7 and not 127; all ones are NaN, and nothing is infinite."""
    wide = bits.to(tl.int32)
    magnitude = ((wide & 0x7F) << 20).to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2^120, subnormal numbers too
    magnitude = tl.where((wide & 0x7F) == 0x7F, float("nan"), magnitude)
    return tl.where((wide & 0x80) != 0, -magnitude, magnitude)


@triton.jit
def to_float8(x, MANTISSA: tl.constexpr, BIAS: tl.constexpr, MOST: tl.constexpr):
    """float32 -> uint8, of a format with MANTISSA bits after the point and an exponent of bias BIAS; clamped to MOST."""
    SHIFT: tl.constexpr = 23 - MANTISSA
    sign = (x.to(tl.int32, bitcast=True) >> 24) & 0x80
    clamped = tl.minimum(tl.abs(x), MOST)
    bits = clamped.to(tl.int32, bitcast=True)
    normal = ((bits + ((1 << (SHIFT - 1)) - 1) + ((bits >> SHIFT) & 1)) >> SHIFT) - ((127 - BIAS) << MANTISSA)
    # Subnormal numbers are steps of 2^(1 - BIAS - MANTISSA) apart: added to a number whose float32 neighbours are just as far from it,
    # they are rounded by the addition itself.
    STEPS: tl.constexpr = (1 - BIAS - MANTISSA + 23 + 127) << 23
    small = (clamped + (x.to(tl.int32, bitcast=True) * 0 + STEPS).to(tl.float32, bitcast=True)).to(tl.int32, bitcast=True) - STEPS
    code = tl.where(bits < ((1 - BIAS + 127) << 23), small, normal)
    code = tl.where(tl.abs(x) >= 0, code, 0x7F)
    return (code | sign).to(tl.uint8)
