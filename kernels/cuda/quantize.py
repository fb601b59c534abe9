"""Rows as uint8 with one scale each, and what kernels that quantize their results share."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops import ScaledRows
from . import configs
from .configs import next_power_of_2
from .signature import Signature

_ZERO = tl.constexpr(128)  # INT8_ZERO
#: The smallest normal float32: a smaller scale is none, since its inverse may be infinite.
_TINY = tl.constexpr(1.1754943508222875e-38)
#: Added and taken off again, it leaves a float32 below 2^22 rounded to an integer, half to even.
_ROUNDER = tl.constexpr(12582912.0)


def quantize(x: Tensor) -> ScaledRows:
    """See `infer.kernels.ops.Ops.quantize`. x [N, F]."""
    x = x.contiguous()
    count, size = x.shape
    out = quantized((count, size), x.device)
    block, num_warps = configs.ELEMENTS[configs.architecture(x.device)]
    block = min(block, next_power_of_2(max(size, 16)))
    if count:
        quantize_kernel[(count,)](x, out.values, out.scale, size, BLOCK=block, num_warps=num_warps)
    return out


def quantized(shape: tuple[int, int], device: torch.device) -> ScaledRows:
    """Uninitialized quantized rows."""
    return ScaledRows(torch.empty(shape, dtype=torch.uint8, device=device), torch.empty(shape[0], dtype=torch.float32, device=device))


@triton.jit
def magnitude(x, there):
    """The number that `scale_of` makes a scale of: abs(x), infinite where x is NaN or infinite, 0 where it is not there."""
    return tl.where(there, tl.where(tl.abs(x) < float("inf"), tl.abs(x), float("inf")), 0.0)


@triton.jit
def scale_of(largest):
    """A row's scale from its largest `magnitude`: infinite for a row with a NaN too, which shows in whatever is made of it."""
    scale = tl.div_rn(largest, 127.0)
    return tl.where(scale < _TINY, 0.0, scale)


@triton.jit
def to_uint8(x, scale):
    """float32 x of a row whose scale this is -> uint8. Rows of no scale, or an infinite one, are all INT8_ZERO."""
    usable = (scale > 0) & (scale < float("inf"))
    inverse = tl.where(usable, tl.div_rn(1.0, tl.where(usable, scale, 1.0)), 0.0)
    rounded = ((tl.where(usable, x, 0.0) * inverse) + _ROUNDER) - _ROUNDER
    return (rounded.to(tl.int32) + _ZERO).to(tl.uint8)


@triton.jit
def quantize_kernel(x, out, scales, size, BLOCK: tl.constexpr):
    """One program a row, which is read twice."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        at = start + lane
        part = tl.load(x + row * size + at, mask=at < size, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, magnitude(part, at < size))
    scale = scale_of(tl.max(largest, 0))
    tl.store(scales + row, scale)
    for start in range(0, size, BLOCK):
        at = start + lane
        part = tl.load(x + row * size + at, mask=at < size, other=0.0).to(tl.float32)
        tl.store(out + row * size + at, to_uint8(part, scale), mask=at < size)


def signatures() -> list[Signature]:
    """Of each dtype."""
    block, num_warps = configs.ELEMENTS["sm_90"]
    types = {"out": "*u8", "scales": "*fp32", "size": "i32:16"}
    return [
        Signature(quantize_kernel, f"quantize {dtype}", {"x": f"*{dtype}", **types}, {"BLOCK": block}, num_warps)
        for dtype in ("fp32", "bf16", "fp16")
    ]
