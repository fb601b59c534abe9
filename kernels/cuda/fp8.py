"""Multiplication by weights of 8-bit floats: by the library's product where the device has one and scales are by rows, else in our own.

The library (`torch._scaled_mm`) takes rows that are quantized to e4m3 token by token, multiplies on tensor cores for 8 bits, twice as
fast as for 16, and applies both sides' scales. It gives bfloat16, and rows may differ with their company. Our own product is that of
weights in groups (grouped.py): the weight's 8 bits become the model's dtype on their way, for any block of scales.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..fp8 import E4M3, Fp8Weight, malformed
from ..grouped import Scales
from ..reference.fp8 import needs_row_scales
from . import configs, grouped
from .configs import next_power_of_2
from .groups import kernel
from .groups.weight import PackedGroups, half_of, laid_out
from .narrow import converts_e4m3, narrowed
from .quantize import magnitude
from .signature import TARGETS, Signature

#: Sizes of the library's products are multiples of this.
_MULTIPLE = 16
_MOST = tl.constexpr(448.0)
_TINY = tl.constexpr(1.1754943508222875e-38)


class ScaledWeight(NamedTuple):
    """A weight for the library's product."""

    values: Tensor
    """float8 [out, in]"""
    scale: Tensor
    """float32 [1, out]"""
    quantize_input: bool = True


def fp8_refusal(
    shape: tuple[int, int], block: tuple[int, int], dtype: torch.dtype, *, quantize_input: bool, deterministic: bool = False
) -> str:
    if not quantize_input:
        return ""
    if deterministic:
        return "the library's products of 8-bit floats depend on how many rows there are, which --deterministic forbids"
    if dtype != torch.bfloat16:
        return "the library's products of 8-bit floats are bfloat16"
    if shape[0] % _MULTIPLE or shape[1] % _MULTIPLE:
        return f"{shape[0]} output and {shape[1]} input features are not multiples of {_MULTIPLE}"
    return needs_row_scales(shape, block) or _lacks_products()


def _lacks_products() -> str:
    """Why this GPU, or none where the interpreter stands for one, has no products of 8-bit floats; or nothing."""
    if not torch.cuda.is_available():
        return ""
    if torch.version.hip is not None:
        return "this GPU's 8-bit floats are others than a checkpoint's"
    if not converts_e4m3(torch.device("cuda", torch.cuda.current_device())):
        return "this GPU has no products of 8-bit floats (they need compute capability 8.9)"
    return ""


def pack_fp8(weight: Fp8Weight, dtype: torch.dtype, *, quantize_input: bool, deterministic: bool = False) -> ScaledWeight | PackedGroups:
    shape, block = (weight.values.shape[0], weight.values.shape[1]), weight.block
    if problem := malformed(weight) or fp8_refusal(shape, block, dtype, quantize_input=quantize_input, deterministic=deterministic):
        raise ValueError(problem)
    if quantize_input:
        return ScaledWeight(weight.values.contiguous(), weight.row_scales()[None].contiguous())
    half = half_of(shape[1], block[1], dtype)
    return PackedGroups(
        codes=laid_out(weight.values, half, 8),
        scale=Scales(weight.scale.T.contiguous()),
        zero=None,
        minimum=None,
        levels=None,
        offset=0,
        bits=8,
        half=half,
        group_size=0 if weight.has_row_scales else block[1],
        in_features=shape[1],
        dtype=dtype,
        outs_of_scale=block[0],
    )


def linear_fp8(x: Tensor, weight: ScaledWeight | PackedGroups, bias: Tensor | None, *, deterministic: bool = False) -> Tensor:
    """See `infer.kernels.ops.Ops.linear_fp8`; `deterministic`: rows' bits do not depend on other rows."""
    if isinstance(weight, PackedGroups):
        return grouped.linear_grouped(x, weight, bias, deterministic=deterministic)
    if not len(x):
        return x.new_empty(0, weight.values.shape[0])
    values, scale = quantize_fp8(x)
    bias = None if bias is None else bias.to(torch.bfloat16)
    out = torch._scaled_mm(values, weight.values.T, scale_a=scale[:, None], scale_b=weight.scale, bias=bias, out_dtype=torch.bfloat16)
    return out.to(x.dtype)


def quantize_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """`fp8.rounded_rows` of x [N, F]."""
    x = x.contiguous()
    count, size = x.shape
    values = torch.empty(count, size, dtype=E4M3, device=x.device)
    scale = torch.empty(count, dtype=torch.float32, device=x.device)
    block, num_warps = configs.ELEMENTS[configs.architecture(x.device)]
    block = min(block, next_power_of_2(max(size, 16)))
    if count:
        quantize_fp8_kernel[(count,)](x, values, scale, size, BLOCK=block, num_warps=num_warps)
    return values, scale


@triton.jit
def quantize_fp8_kernel(x, out, scales, size, BLOCK: tl.constexpr):
    """One program a row, which is read twice."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    largest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        at = start + lane
        part = tl.load(x + row * size + at, mask=at < size, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, magnitude(part, at < size))
    scale = tl.div_rn(tl.max(largest, 0), _MOST)
    scale = tl.where(scale < _TINY, 0.0, scale)
    tl.store(scales + row, scale)
    usable = (scale > 0) & (scale < float("inf"))
    inverse = tl.where(usable, tl.div_rn(1.0, tl.where(usable, scale, 1.0)), 0.0)
    for start in range(0, size, BLOCK):
        at = start + lane
        part = tl.load(x + row * size + at, mask=at < size, other=0.0).to(tl.float32)
        part = tl.where(usable, part, 0.0) * inverse
        tl.store(out + row * size + at, narrowed(part, out.dtype.element_ty), mask=at < size)


def signatures() -> list[Signature]:
    """Of rows; and of our own product, whose kernel is grouped.py's, by rows and by blocks."""
    block, num_warps = configs.ELEMENTS["sm_90"]
    types = {"x": "*bf16", "out": "*fp8e4nv", "scales": "*fp32", "size": "i32:16"}
    converting = tuple(target.name for target in TARGETS if target.converts_e4m3)
    found = [Signature(quantize_fp8_kernel, "quantize_fp8 bf16", types, {"BLOCK": block}, num_warps, targets=converting)]
    for target in TARGETS:
        codes = "*fp8e4nv" if target.converts_e4m3 else "*u8"
        for kind in configs.GROUPED_KINDS:
            found.append(kernel.signature(kind, target, "floats in blocks of 128", "bf16", codes))
        found.append(kernel.signature("few", target, "floats by rows", "fp16", codes))
        found.append(kernel.signature("few", target, "floats by rows", "bf16", "*fp8e5"))
    return found
