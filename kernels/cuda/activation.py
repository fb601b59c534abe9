"""Activations, gated or not, result quantized in the same pass."""

from __future__ import annotations

import triton
import triton.language as tl

from ..ops import Rows, ScaledRows
from . import configs
from .configs import cdiv, next_power_of_2
from .quantize import magnitude, quantized, scale_of, to_uint8
from .signature import Signature

KINDS = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "clamped_swiglu", "sigmoid")


def gated_activation(x: Rows, kind: str, *, quantize: bool = False) -> Rows:
    """See `infer.kernels.ops.Ops.gated_activation`."""
    return _activate(x, kind, gated=True, quantize=quantize)


def activation(x: Rows, kind: str, *, quantize: bool = False) -> Rows:
    """See `infer.kernels.ops.Ops.activation`."""
    return _activate(x, kind, gated=False, quantize=quantize)


def _activate(x: Rows, kind: str, *, gated: bool, quantize: bool) -> Rows:
    assert kind in KINDS, kind
    values, factors = x if isinstance(x, ScaledRows) else (x, None)
    values = values.contiguous()
    count, width = values.shape
    size = width // 2 if gated else width
    block, num_warps = configs.ELEMENTS[configs.architecture(values.device)]
    block = min(block, next_power_of_2(max(size, 16)))
    out, scales = quantized((count, size), values.device) if quantize else (values.new_empty((count, size)), None)
    if out.numel():
        # A quantized row needs its largest result first, so that one program sees to all of it.
        grid = (count, 1 if quantize else cdiv(size, block))
        activation_kernel[grid](
            values, factors, out, scales, size,
            KIND=kind, GATED=gated, SCALED=factors is not None, QUANTIZE=quantize, BLOCK=block, num_warps=num_warps,
        )  # fmt: skip
    return out if scales is None else ScaledRows(out, scales)


@triton.jit
def activated(x, KIND: tl.constexpr):
    """Of float32 x."""
    if KIND == "silu":
        return x / (1.0 + tl.exp(-x))
    if KIND == "sigmoid":
        return 1.0 / (1.0 + tl.exp(-x))
    if KIND == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if KIND == "gelu_tanh":
        # 0.5 * (1 + tanh(z)) = 1 / (1 + exp(-2 z)), without a difference of near equals.
        return x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    if KIND == "clamped_swiglu":
        x = tl.where(x > 7.0, 7.0, x)  # NaN stays; the numbers are those of ops.py
        return x / (1.0 + tl.exp(-1.702 * x))
    if KIND == "relu2":
        return tl.where(x < 0.0, 0.0, x * x)
    return tl.where(x < 0.0, 0.0, x)  # NaN stays


@triton.jit
def _part(x, factor, row, at, size, KIND: tl.constexpr, GATED: tl.constexpr):
    """Results `at` places of a row, in float32."""
    there = at < size
    if GATED:
        gate = tl.load(x + row * 2 * size + at, mask=there, other=0.0).to(tl.float32) * factor
        up = tl.load(x + row * 2 * size + size + at, mask=there, other=0.0).to(tl.float32) * factor
        if KIND == "clamped_swiglu":
            up = tl.where(up > 7.0, 7.0, tl.where(up < -7.0, -7.0, up)) + 1.0
        return activated(gate, KIND) * up
    return activated(tl.load(x + row * size + at, mask=there, other=0.0).to(tl.float32) * factor, KIND)


@triton.jit
def activation_kernel(
    x, factors, out, scales, size,
    KIND: tl.constexpr, GATED: tl.constexpr, SCALED: tl.constexpr, QUANTIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Programs: (rows, parts of BLOCK), or (rows, 1) where results are quantized: then they are computed twice."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    factor = 1.0
    if SCALED:
        factor = tl.load(factors + row)
    if QUANTIZE:
        largest = tl.zeros([BLOCK], tl.float32)
        for start in range(0, size, BLOCK):
            at = start + lane
            largest = tl.maximum(largest, magnitude(_part(x, factor, row, at, size, KIND, GATED), at < size))
        scale = scale_of(tl.max(largest, 0))
        tl.store(scales + row, scale)
        for start in range(0, size, BLOCK):
            at = start + lane
            tl.store(out + row * size + at, to_uint8(_part(x, factor, row, at, size, KIND, GATED), scale), mask=at < size)
    else:
        at = tl.program_id(1) * BLOCK + lane
        tl.store(out + row * size + at, _part(x, factor, row, at, size, KIND, GATED).to(out.dtype.element_ty), mask=at < size)


def signatures() -> list[Signature]:
    """Every kind; what int8 layers take and give for the commonest."""
    block, num_warps = configs.ELEMENTS["sm_90"]
    made = []
    for kind, dtype, gated, int8 in [
        ("silu", "bf16", True, False),
        ("silu", "fp32", True, False),
        ("silu", "bf16", True, True),
        ("gelu_tanh", "bf16", True, False),
        ("clamped_swiglu", "bf16", True, False),
        ("gelu", "fp16", False, False),
        ("gelu", "bf16", False, True),
        ("relu", "fp16", False, False),
        ("relu2", "bf16", False, False),
        ("sigmoid", "bf16", True, False),
    ]:
        types = {"x": f"*{dtype}", "out": f"*{dtype}", "size": "i32:16"}
        constexprs = {"KIND": kind, "GATED": gated, "SCALED": int8, "QUANTIZE": int8, "BLOCK": block}
        if int8:
            types |= {"out": "*u8", "factors": "*fp32", "scales": "*fp32"}
        else:
            constexprs |= {"factors": None, "scales": None}
        name = f"activation {'gated ' if gated else ''}{kind} {dtype}{' int8' if int8 else ''}"
        made.append(Signature(activation_kernel, name, types, constexprs, num_warps))
    return made
