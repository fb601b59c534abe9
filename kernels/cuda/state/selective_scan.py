"""Mamba's selective scan: one warp keeps some channels' states in registers and goes along the tokens of a sequence."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...state import SelectiveScan, States
from ..activation import activated
from ..configs import cdiv, next_power_of_2
from ..signature import Signature
from .softplus import softplus

#: Numbers of states that one warp keeps, 16 a thread: their rates take as many registers again. Channels are independent of each other.
KEPT = 512


def selective_scan(x: Tensor, dt: Tensor, bc: Tensor, gate: Tensor, scan: SelectiveScan, state: Tensor, states: States) -> Tensor:
    """See `infer.kernels.state.StateOps.selective_scan`."""
    assert x.stride(1) == dt.stride(1) == bc.stride(1) == gate.stride(1) == 1
    assert state.is_contiguous()
    assert state.dtype == scan.rate.dtype == scan.skip.dtype == scan.bias.dtype == torch.float32
    (count, channels), depth = x.shape, len(scan.rate)
    out = x.new_zeros((count, channels))
    block, depth_block = _blocks(depth)
    if len(states.slots):
        selective_kernel[(len(states.slots), cdiv(channels, block))](
            x, dt, bc, gate, *scan, state, *states, out, x.stride(0), dt.stride(0), bc.stride(0), gate.stride(0), channels,
            DEPTH=depth, BLOCK=block, DEPTH_BLOCK=depth_block, num_warps=1,
        )  # fmt: skip
    return out


def _blocks(depth: int) -> tuple[int, int]:
    """Channels of a program, and numbers that it keeps of each."""
    padded = next_power_of_2(depth)
    return max(KEPT // padded, 1), padded


@triton.jit
def selective_kernel(
    x, dt, bc, gate, rate, skip, bias, state, query_start, kv_lens, slots, out, stride, dt_stride, bc_stride, gate_stride, channels,
    DEPTH: tl.constexpr, BLOCK: tl.constexpr, DEPTH_BLOCK: tl.constexpr,
):  # fmt: skip
    """Programs: (sequences, parts of BLOCK channels)."""
    sequence = tl.program_id(0)
    first, last = tl.load(query_start + sequence), tl.load(query_start + sequence + 1)
    if last > first:
        at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        deep = tl.arange(0, DEPTH_BLOCK)
        there, is_number = at < channels, deep < DEPTH
        is_kept = is_number[:, None] & there[None, :]
        within = deep[:, None] * channels + at[None, :]
        place = state + tl.load(slots + sequence).to(tl.int64) * DEPTH * channels + within
        num_channels = tl.where(tl.load(kv_lens + sequence) > last - first, channels, 0)  # none where these are the first tokens
        kept = tl.load(place, mask=is_number[:, None] & (at < num_channels)[None, :], other=0.0)
        rates = tl.load(rate + within, mask=is_kept, other=0.0)
        skips, biases = tl.load(skip + at, mask=there, other=0.0), tl.load(bias + at, mask=there, other=0.0)
        before = first.to(tl.int64)
        xs, times, gates = x + before * stride + at, dt + before * dt_stride + at, gate + before * gate_stride + at
        bs, to = bc + before * bc_stride + deep, out + before * channels + at
        for _ in range(first, last):
            own = tl.load(xs, mask=there, other=0.0).to(tl.float32)
            b = tl.load(bs, mask=is_number, other=0.0).to(tl.float32)
            c = tl.load(bs + DEPTH, mask=is_number, other=0.0).to(tl.float32)
            step = softplus(tl.load(times, mask=there, other=0.0).to(tl.float32) + biases)
            kept = kept * tl.exp(step[None, :] * rates) + b[:, None] * (step * own)[None, :]
            y = tl.sum(kept * c[:, None], 0) + skips * own
            y *= activated(tl.load(gates, mask=there, other=0.0).to(tl.float32), "silu")
            tl.store(to, y.to(out.dtype.element_ty), mask=there)
            xs += stride
            times += dt_stride
            gates += gate_stride
            bs += bc_stride
            to += channels
        tl.store(place, kept, mask=is_kept)


def signatures() -> list[Signature]:
    """Of Mamba's and Jamba's states."""
    made = []
    for dtype in ("bf16", "fp32"):
        types = {
            **dict.fromkeys(("x", "dt", "bc", "gate", "out"), f"*{dtype}"),
            **dict.fromkeys(("rate", "skip", "bias", "state"), "*fp32"),
            **dict.fromkeys(("query_start", "kv_lens", "slots"), "*i32"),
            **dict.fromkeys(("stride", "dt_stride", "bc_stride", "gate_stride", "channels"), "i32:16"),
        }
        block, depth = _blocks(16)
        shape = {"DEPTH": 16, "BLOCK": block, "DEPTH_BLOCK": depth}
        made.append(Signature(selective_kernel, f"selective_scan {dtype}", types, shape, num_warps=1))
    return made
