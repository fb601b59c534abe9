"""Mamba-2's scan: one warp keeps some features of a head's state in registers and goes along the tokens of a sequence."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...state import Mamba2Scan, States
from ..configs import cdiv, next_power_of_2
from ..signature import Signature
from .softplus import softplus

#: Numbers of a state that one warp keeps, 64 a thread. Features are independent of each other: what they are does not depend on it.
KEPT = 2048


def mamba2_scan(xbc: Tensor, dt: Tensor, scan: Mamba2Scan, state: Tensor, states: States) -> Tensor:
    """See `infer.kernels.state.StateOps.mamba2_scan`."""
    assert xbc.stride(1) == dt.stride(1) == 1
    assert state.is_contiguous()
    assert state.dtype == scan.rate.dtype == scan.skip.dtype == scan.bias.dtype == torch.float32
    out = xbc.new_zeros((len(xbc), scan.num_heads * scan.head_dim))
    block, depth = _blocks(scan.head_dim, scan.state_size)
    if len(states.slots):
        mamba2_kernel[(len(states.slots), scan.num_heads, cdiv(scan.head_dim, block))](
            xbc, dt, scan.rate, scan.skip, scan.bias, state, *states, out, xbc.stride(0), dt.stride(0), scan.low, scan.high,
            HEADS=scan.num_heads, GROUPS=scan.num_groups, WIDTH=scan.head_dim, DEPTH=scan.state_size,
            BLOCK=block, DEPTH_BLOCK=depth, num_warps=1,
        )  # fmt: skip
    return out


def _blocks(head_dim: int, state_size: int) -> tuple[int, int]:
    """Features of a program, and numbers that it keeps of each."""
    depth = next_power_of_2(state_size)
    return min(max(KEPT // depth, 1), next_power_of_2(head_dim)), depth


@triton.jit
def mamba2_kernel(
    xbc, dt, rate, skip, bias, state, query_start, kv_lens, slots, out, stride, dt_stride, low, high,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr, BLOCK: tl.constexpr, DEPTH_BLOCK: tl.constexpr,
):  # fmt: skip
    """Programs: (sequences, heads, parts of BLOCK features)."""
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    first, last = tl.load(query_start + sequence), tl.load(query_start + sequence + 1)
    if last > first:
        at = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
        deep = tl.arange(0, DEPTH_BLOCK)
        is_feature, is_number = at < WIDTH, deep < DEPTH
        is_kept = is_number[:, None] & is_feature[None, :]
        place = state + (tl.load(slots + sequence).to(tl.int64) * HEADS + head) * (DEPTH * WIDTH) + deep[:, None] * WIDTH + at[None, :]
        num_features = tl.where(tl.load(kv_lens + sequence) > last - first, WIDTH, 0)  # none where these are the first tokens
        kept = tl.load(place, mask=is_number[:, None] & (at < num_features)[None, :], other=0.0)
        head_rate, head_skip, head_bias = tl.load(rate + head), tl.load(skip + head), tl.load(bias + head)
        before = first.to(tl.int64)
        features = xbc + before * stride + head * WIDTH + at
        bs = xbc + before * stride + HEADS * WIDTH + head // (HEADS // GROUPS) * DEPTH + deep
        time = dt + before * dt_stride + head
        to = out + before * (HEADS * WIDTH) + head * WIDTH + at
        for _ in range(first, last):
            x = tl.load(features, mask=is_feature, other=0.0).to(tl.float32)
            b = tl.load(bs, mask=is_number, other=0.0).to(tl.float32)
            c = tl.load(bs + GROUPS * DEPTH, mask=is_number, other=0.0).to(tl.float32)
            step = softplus(tl.load(time).to(tl.float32) + head_bias)
            step = tl.where(step < low, low, tl.where(step > high, high, step))
            kept = kept * tl.exp(step * head_rate) + b[:, None] * (x * step)[None, :]
            y = tl.sum(kept * c[:, None], 0) + head_skip * x
            tl.store(to, y.to(out.dtype.element_ty), mask=is_feature)
            features += stride
            bs += stride
            time += dt_stride
            to += HEADS * WIDTH
        tl.store(place, kept, mask=is_kept)


def signatures() -> list[Signature]:
    """Of the heads of Mamba-2, Granite 4 and Nemotron-H, of Falcon-H1's, and of small ones."""
    made = []
    for dtype, width, depth in [("bf16", 64, 128), ("bf16", 64, 256), ("fp32", 80, 128), ("fp16", 32, 16)]:
        types = {
            **dict.fromkeys(("xbc", "dt", "out"), f"*{dtype}"),
            **dict.fromkeys(("rate", "skip", "bias", "state"), "*fp32"),
            **dict.fromkeys(("query_start", "kv_lens", "slots"), "*i32"),
            **dict.fromkeys(("stride", "dt_stride"), "i32:16"),
            **dict.fromkeys(("low", "high"), "fp32"),
        }
        block, depth_block = _blocks(width, depth)
        shape = {"HEADS": 48, "GROUPS": 1, "WIDTH": width, "DEPTH": depth, "BLOCK": block, "DEPTH_BLOCK": depth_block}
        made.append(Signature(mamba2_kernel, f"mamba2_scan {dtype} {width}x{depth}", types, shape, num_warps=1))
    return made
