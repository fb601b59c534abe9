"""Short causal convolution over states: all rows at once, and then the states, whose old inputs the rows have read by then."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...state import States
from .. import configs
from ..activation import activated
from ..configs import cdiv, next_power_of_2
from ..signature import Signature


def short_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, states: States, activation: str | None) -> Tensor:
    """See `infer.kernels.ops.Ops.short_convolution`."""
    count, size = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    assert state.is_contiguous()
    assert weight.is_contiguous()
    out = x.new_empty((count, size))
    width, sequences = len(weight), len(states.slots)
    block, num_warps = configs.ELEMENTS[configs.architecture(x.device)]
    block = min(block, next_power_of_2(max(size, 16)))
    parts = cdiv(size, block)
    where = (states.query_start, states.kv_lens, states.slots)
    if count and sequences:
        convolution_kernel[(count, parts)](
            x, weight, bias, state, *where, out, x.stride(0), size, sequences,
            WIDTH=width, KIND=activation or "", BIAS=bias is not None, STEPS=sequences.bit_length(), BLOCK=block, num_warps=num_warps,
        )  # fmt: skip
        if width > 1:
            window_kernel[(sequences, parts)](x, state, *where, x.stride(0), size, KEPT=width - 1, BLOCK=block, num_warps=num_warps)
    return out if sequences else out.zero_()


@triton.jit
def sequence_of(query_start, row, sequences, STEPS: tl.constexpr):
    """The sequence that has a row, among so many; the last where none has. 2^STEPS is more than there are."""
    low = 0
    high = sequences - 1
    for _ in range(STEPS):
        middle = (low + high) // 2
        after = tl.load(query_start + middle + 1) <= row
        low = tl.where(after & (low < high), middle + 1, low)
        high = tl.where(after, high, middle)
    return low


@triton.jit
def _input(x, state, slot, row, place, oldest, at, stride, size, KEPT: tl.constexpr):
    """float32: the input at a `place` among this step's, of which it is `row`, or one that is kept; zeros before the `oldest`."""
    num_ours = tl.where(place >= 0, size, 0)
    num_kept = tl.where((place < 0) & (place >= oldest), size, 0)
    ours = tl.load(x + row.to(tl.int64) * stride + at, mask=at < num_ours, other=0.0)
    kept = tl.load(state + (slot * KEPT + KEPT + place) * size + at, mask=at < num_kept, other=0.0)
    return tl.where(at < num_ours, ours, kept).to(tl.float32)


@triton.jit
def _oldest(kv_lens, sequence, count, KEPT: tl.constexpr):
    """The place of the oldest input of a sequence that there is, or that is kept."""
    return tl.where(tl.load(kv_lens + sequence) <= count, 0, -KEPT)


@triton.jit
def convolution_kernel(
    x, weight, bias, state, query_start, kv_lens, slots, out, stride, size, sequences,
    WIDTH: tl.constexpr, KIND: tl.constexpr, BIAS: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Programs: (rows, parts of BLOCK channels)."""
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    total = tl.zeros([BLOCK], tl.float32)
    if row < tl.load(query_start + sequences):
        sequence = sequence_of(query_start, row, sequences, STEPS)
        first = tl.load(query_start + sequence)
        oldest = _oldest(kv_lens, sequence, tl.load(query_start + sequence + 1) - first, WIDTH - 1)
        slot = tl.load(slots + sequence).to(tl.int64)
        if BIAS:
            total += tl.load(bias + at, mask=there, other=0.0)
        for tap in tl.static_range(WIDTH):
            taken = row - (WIDTH - 1 - tap)
            value = _input(x, state, slot, taken, taken - first, oldest, at, stride, size, WIDTH - 1)
            total += tl.load(weight + tap * size + at, mask=there, other=0.0) * value
        if KIND != "":
            total = activated(total, KIND)
    tl.store(out + row.to(tl.int64) * size + at, total.to(out.dtype.element_ty), mask=there)


@triton.jit
def window_kernel(x, state, query_start, kv_lens, slots, stride, size, KEPT: tl.constexpr, BLOCK: tl.constexpr):
    """Programs: (sequences, parts of BLOCK channels)."""
    sequence = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < size
    first, end = tl.load(query_start + sequence), tl.load(query_start + sequence + 1)
    count = end - first
    if count > 0:
        oldest = _oldest(kv_lens, sequence, count, KEPT)
        slot = tl.load(slots + sequence).to(tl.int64)
        # Oldest first: what is read lies behind what is written.
        for kept in tl.static_range(KEPT):
            taken = end - KEPT + kept
            value = _input(x, state, slot, taken, taken - first, oldest, at, stride, size, KEPT)
            tl.store(state + (slot * KEPT + kept) * size + at, value.to(state.dtype.element_ty), mask=there)


def signatures() -> list[Signature]:
    """LFM2's (three taps) and Mamba's (four, with a bias and silu)."""
    block, num_warps = configs.ELEMENTS["sm_90"]
    made = []
    where = {"query_start": "*i32", "kv_lens": "*i32", "slots": "*i32", "stride": "i32:16", "size": "i32:16"}
    for dtype, width, kind in [("bf16", 3, ""), ("bf16", 4, "silu"), ("fp32", 4, "silu")]:
        types = {"x": f"*{dtype}", "state": f"*{dtype}", **where}
        more = {"weight": "*fp32", "out": f"*{dtype}", "sequences": "i32", **({"bias": "*fp32"} if kind else {})}
        constexprs = {"WIDTH": width, "KIND": kind, "BIAS": bool(kind), "STEPS": 9, "BLOCK": block, **({} if kind else {"bias": None})}
        made.append(Signature(convolution_kernel, f"short_convolution {dtype} {width}", types | more, constexprs, num_warps))
        made.append(
            Signature(window_kernel, f"short_convolution's window {dtype} {width}", types, {"KEPT": width - 1, "BLOCK": block}, num_warps)
        )
    return made
