"""RMSNorm with a gate, result quantized in the same pass: a row is held in registers by one program, group by group."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...ops import Rows, ScaledRows
from .. import configs
from ..activation import activated
from ..configs import next_power_of_2
from ..norm import MAX_SIZE
from ..quantize import magnitude, quantized, scale_of, to_uint8
from ..signature import Signature


def gated_rms_norm(
    x: Tensor, gate: Tensor, weight: Tensor | None, eps: float, group_size: int, *, gate_first: bool, quantize: bool = False
) -> Rows:
    """See `infer.kernels.ops.Ops.gated_rms_norm`."""
    assert x.shape == gate.shape
    assert gate.stride(1) == 1
    x, (count, size) = x.contiguous(), x.shape
    groups, block = next_power_of_2(size // group_size), next_power_of_2(group_size)
    assert groups * block <= MAX_SIZE
    out, scales = quantized((count, size), x.device) if quantize else (x.new_empty((count, size)), None)
    if count:
        gated_norm_kernel[(count,)](
            x, gate, weight, out, scales, gate.stride(0), eps, SIZE=size, GROUP=group_size,
            NORM=weight is not None, SHARED=weight is not None and len(weight) != size, GATE_FIRST=gate_first, QUANTIZE=quantize,
            GROUPS=groups, BLOCK=block, num_warps=configs.row_warps(groups * block, configs.architecture(x.device)),
        )  # fmt: skip
    return out if scales is None else ScaledRows(out, scales)


@triton.jit
def gated_norm_kernel(
    x, gate, weight, out, scales, gate_stride, eps, SIZE: tl.constexpr, GROUP: tl.constexpr, NORM: tl.constexpr, SHARED: tl.constexpr,
    GATE_FIRST: tl.constexpr, QUANTIZE: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    group, within = tl.arange(0, GROUPS)[:, None], tl.arange(0, BLOCK)[None, :]
    at = group * GROUP + within
    there = (within < GROUP) & (at < SIZE)
    x32 = tl.load(x + row * SIZE + at, mask=there, other=0.0).to(tl.float32)
    factor = activated(tl.load(gate + row * gate_stride + at, mask=there, other=0.0).to(tl.float32), "silu")
    if GATE_FIRST or not NORM:
        x32 *= factor
    if NORM:
        square = tl.sum(x32 * x32, 1) / GROUP
        x32 *= tl.div_rn(1.0, tl.sqrt_rn(square + eps))[:, None]
        x32 *= tl.load(weight + (within if SHARED else at), mask=there, other=0.0).to(tl.float32)
        if not GATE_FIRST:
            x32 *= factor
    if QUANTIZE:
        scale = scale_of(tl.max(tl.max(magnitude(x32, there), 1), 0))
        tl.store(scales + row, scale)
        tl.store(out + row * SIZE + at, to_uint8(x32, scale), mask=there)
    else:
        tl.store(out + row * SIZE + at, x32.to(out.dtype.element_ty), mask=there)


def signatures() -> list[Signature]:
    """Of Mamba-2's layers, of Nemotron-H's in groups, of heads that share a weight, and without a norm."""
    cases = [
        ("bf16 3072", "bf16", 3072, 3072, {"GATE_FIRST": True, "NORM": True}),
        ("bf16 8x1120 int8", "bf16", 8960, 1120, {"GATE_FIRST": True, "NORM": True, "QUANTIZE": True}),
        ("fp32 32x128 shared", "fp32", 4096, 128, {"NORM": True, "SHARED": True}),
        ("bf16 1536 without", "bf16", 1536, 1536, {}),
    ]
    made = []
    for name, dtype, size, group, options in cases:
        flags = {flag: bool(options.get(flag)) for flag in ("NORM", "SHARED", "GATE_FIRST", "QUANTIZE")}
        types = {"x": f"*{dtype}", "gate": f"*{dtype}", "out": f"*{dtype}", "gate_stride": "i32:16", "eps": "fp32"}
        types |= {"weight": f"*{dtype}"} if flags["NORM"] else {}
        types |= {"out": "*u8", "scales": "*fp32"} if flags["QUANTIZE"] else {}
        missing = {key: None for key in ("weight", "scales") if key not in types}
        groups, block = next_power_of_2(size // group), next_power_of_2(group)
        constexprs = {**flags, **missing, "SIZE": size, "GROUP": group, "GROUPS": groups, "BLOCK": block}
        # None is so wide that targets differ.
        warps = configs.row_warps(groups * block, "sm_90")
        made.append(Signature(gated_norm_kernel, f"gated_rms_norm {name}", types, constexprs, warps))
    return made
