"""RMSNorm and LayerNorm, residual added and result quantized in the same pass: a row is held in registers by one program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..ops import Rows, ScaledRows
from . import configs
from .configs import next_power_of_2
from .quantize import magnitude, quantized, scale_of, to_uint8
from .signature import TARGETS, Signature

#: Most features of a row: 32 a thread (gfx942: 64 above 16384).
MAX_SIZE = 32768


def rms_norm(x: Rows, weight: Tensor, eps: float, *, quantize: bool = False) -> Rows:
    """See `infer.kernels.ops.Ops.rms_norm`."""
    return _normalize(x, None, weight, None, eps, quantize=quantize, center=False)


def add_rms_norm(x: Rows, residual: Tensor, weight: Tensor, eps: float, *, quantize: bool = False) -> tuple[Rows, Tensor]:
    """See `infer.kernels.ops.Ops.add_rms_norm`."""
    residual = residual.contiguous()
    return _normalize(x, residual, weight, None, eps, quantize=quantize, center=False), residual


def layer_norm(x: Rows, weight: Tensor, bias: Tensor | None, eps: float, *, quantize: bool = False) -> Rows:
    """See `infer.kernels.ops.Ops.layer_norm`."""
    return _normalize(x, None, weight, bias, eps, quantize=quantize, center=True)


def add_layer_norm(
    x: Rows, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, quantize: bool = False
) -> tuple[Rows, Tensor]:
    """See `infer.kernels.ops.Ops.add_layer_norm`."""
    residual = residual.contiguous()
    return _normalize(x, residual, weight, bias, eps, quantize=quantize, center=True), residual


def _normalize(
    x: Rows, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, *, quantize: bool, center: bool
) -> Rows:  # fmt: skip
    """`residual` becomes the sum."""
    values, factors = x if isinstance(x, ScaledRows) else (x, None)
    values = values.contiguous()
    size = weight.shape[0]
    assert values.shape[-1] == size <= MAX_SIZE
    assert residual is None or residual.shape == values.shape
    count = values.numel() // size
    out, scales = quantized((count, size), values.device) if quantize else (torch.empty_like(values), None)
    if count:
        block = next_power_of_2(max(size, 16))
        warps = configs.row_warps(block, configs.architecture(values.device))
        norm_kernel[(count,)](
            values, factors, residual, weight, bias, out, scales, eps, size, SCALED=factors is not None, ADD=residual is not None,
            CENTER=center, BIAS=bias is not None, QUANTIZE=quantize, BLOCK=block, num_warps=warps,
        )  # fmt: skip
    return out if scales is None else ScaledRows(out.view(values.shape), scales.view(values.shape[:-1]))


@triton.jit
def norm_kernel(
    x, factors, residual, weight, bias, out, scales, eps, size,
    SCALED: tl.constexpr, ADD: tl.constexpr, CENTER: tl.constexpr, BIAS: tl.constexpr, QUANTIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    there = at < size
    x32 = tl.load(x + row * size + at, mask=there, other=0.0).to(tl.float32)
    if SCALED:
        x32 *= tl.load(factors + row)
    if ADD:
        place = residual + row * size + at
        before = tl.load(place, mask=there, other=0.0)
        total = (x32 + before.to(tl.float32)).to(before.dtype)
        tl.store(place, total, mask=there)
        x32 = total.to(tl.float32)
    if CENTER:
        x32 = tl.where(there, x32 - tl.div_rn(tl.sum(x32, 0), size.to(tl.float32)), 0.0)
    square = tl.div_rn(tl.sum(x32 * x32, 0), size.to(tl.float32))
    x32 = x32 * tl.div_rn(1.0, tl.sqrt_rn(square + eps)) * tl.load(weight + at, mask=there, other=0.0).to(tl.float32)
    if BIAS:
        x32 += tl.load(bias + at, mask=there, other=0.0).to(tl.float32)
    if QUANTIZE:
        scale = scale_of(tl.max(magnitude(x32, there), 0))
        tl.store(scales + row, scale)
        tl.store(out + row * size + at, to_uint8(x32, scale), mask=there)
    else:
        tl.store(out + row * size + at, x32.to(out.dtype.element_ty), mask=there)


def signatures() -> list[Signature]:
    """The norms of decoders and encoders at common widths, plain and between int8 layers, and the widest row."""
    cases = [
        ("rms bf16 4096", "bf16", 4096, {}),
        ("add_rms bf16 4096", "bf16", 4096, {"ADD": True}),
        ("add_rms fp32 4096", "fp32", 4096, {"ADD": True}),
        ("add_rms int8 bf16 4096", "bf16", 4096, {"ADD": True, "SCALED": True, "QUANTIZE": True}),
        ("add_layer fp16 1024", "fp16", 1024, {"ADD": True, "CENTER": True, "BIAS": True}),
        ("add_layer int8 bf16 8192", "bf16", 8192, {"ADD": True, "CENTER": True, "BIAS": True, "SCALED": True, "QUANTIZE": True}),
        ("add_layer fp32 32768", "fp32", MAX_SIZE, {"ADD": True, "CENTER": True, "BIAS": True}),
    ]
    made = []
    for name, dtype, size, options in cases:
        flags = {flag: bool(options.get(flag)) for flag in ("SCALED", "ADD", "CENTER", "BIAS", "QUANTIZE")}
        optional = {
            "factors": "*fp32" if flags["SCALED"] else None,
            "residual": f"*{dtype}" if flags["ADD"] else None,
            "bias": f"*{dtype}" if flags["BIAS"] else None,
            "scales": "*fp32" if flags["QUANTIZE"] else None,
        }
        types = {
            "x": f"*{dtype}", "weight": f"*{dtype}", "out": "*u8" if flags["QUANTIZE"] else f"*{dtype}", "eps": "fp32", "size": "i32:16",
            **{key: kind for key, kind in optional.items() if kind},
        }  # fmt: skip
        missing = {key: None for key, kind in optional.items() if not kind}
        constexprs = {**flags, **missing, "BLOCK": size}
        # Of 32 elements a thread 64 registers are all that a program of 1,024 threads has: a few reads of what is spilled.
        limit = 64 if size > MAX_SIZE // 2 else 0
        targets: dict[int, list[str]] = {}
        for target in TARGETS:
            targets.setdefault(configs.row_warps(size, target.row), []).append(target.name)
        for warps, those in targets.items():
            made.append(Signature(norm_kernel, f"norm {name}", types, constexprs, warps, targets=tuple(those), spill_limit=limit))
    return made
