"""Scans of Mamba and Mamba-2 in every backend: against float64 formulas, and a sequence's bits do not depend on steps or company."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.kernels.ops import Ops
from infer.kernels.state import Mamba2Scan, SelectiveScan, States

TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 5e-6},
    torch.bfloat16: {"rtol": 1e-2, "atol": 2e-3},
    torch.float16: {"rtol": 2e-3, "atol": 5e-4},
}
DTYPES = list(TOLERANCE)
#: Rows of each sequence, and how many of its tokens came before; the last rows of a step belong to nobody.
LENGTHS, BEFORE = [7, 1, 12, 0, 4], [0, 5, 3, 2, 0]
SLOTS = [3, 1, 6, 2, 5]
IDLE = 8


class Mamba2:
    """Heads, groups, features of a head, and numbers of a state."""

    def __init__(self, heads: int, groups: int, width: int, depth: int, *, low: float = 0.0, high: float = math.inf) -> None:
        g = torch.Generator().manual_seed(width)
        rate, skip, bias = -torch.rand(heads, generator=g) * 4, torch.randn(heads, generator=g), torch.randn(heads, generator=g)
        self.scan = Mamba2Scan(heads, groups, width, depth, rate, skip, bias, low, high)
        self.shape = (heads, depth, width)

    def inputs(self, rows: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
        g = torch.Generator().manual_seed(seed)
        projected = torch.randn(rows, 5 + self.scan.width + self.scan.num_heads, generator=g).to(dtype)
        return [projected[:, 5 : 5 + self.scan.width], projected[:, 5 + self.scan.width :]]

    def apply(self, ops: Ops, inputs: list[Tensor], state: Tensor, states: States) -> Tensor:
        return ops.mamba2_scan(*inputs, self.scan, state, states)

    def formula(self, inputs: list[Tensor], h: Tensor) -> Tensor:
        """float64 results of one sequence; h becomes its state."""
        s = self.scan
        x, b, c = inputs[0].double().split([s.num_heads * s.head_dim, *2 * [s.num_groups * s.state_size]], dim=1)
        out = []
        for t in range(len(x)):
            of_heads = x[t].view(s.num_heads, s.head_dim)
            step = torch.nn.functional.softplus(inputs[1][t].double() + s.bias, threshold=1000).clamp(s.low, s.high)
            b_, c_ = (one[t].view(s.num_groups, -1).repeat_interleave(s.num_heads // s.num_groups, 0) for one in (b, c))
            h.mul_(torch.exp(step * s.rate)[:, None, None]).add_(torch.einsum("h,hs,hp->hsp", step, b_, of_heads))
            out.append((torch.einsum("hs,hsp->hp", c_, h) + s.skip[:, None] * of_heads).flatten())
        return torch.stack(out)


class Mamba:
    """Channels, and numbers of a channel's state."""

    def __init__(self, channels: int, depth: int) -> None:
        g = torch.Generator().manual_seed(channels)
        rate = -torch.rand(depth, channels, generator=g) * 4
        self.scan = SelectiveScan(rate, torch.randn(channels, generator=g), torch.randn(channels, generator=g))
        self.shape = (depth, channels)

    def inputs(self, rows: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
        g = torch.Generator().manual_seed(seed)
        depth, channels = self.shape
        projected = torch.randn(rows, 3 * channels + 2 * depth + 3, generator=g).to(dtype)
        x, dt, bc, gate, _ = projected.split([channels, channels, 2 * depth, channels, 3], dim=1)
        return [x, dt, bc, gate]

    def apply(self, ops: Ops, inputs: list[Tensor], state: Tensor, states: States) -> Tensor:
        return ops.selective_scan(*inputs, self.scan, state, states)

    def formula(self, inputs: list[Tensor], h: Tensor) -> Tensor:
        x, dt, bc, gate = (one.double() for one in inputs)
        step = torch.nn.functional.softplus(dt + self.scan.bias, threshold=1000)
        out = []
        for t in range(len(x)):
            b, c = bc[t].chunk(2)
            h.mul_(torch.exp(step[t] * self.scan.rate)).add_(b[:, None] * (step[t] * x[t]))
            out.append((c @ h + self.scan.skip * x[t]) * torch.nn.functional.silu(gate[t]))
        return torch.stack(out)


SCANS: dict[str, Callable[[], Any]] = {
    "mamba2 2x64": lambda: Mamba2(2, 1, 64, 16),
    "mamba2 6x20 in 3 groups": lambda: Mamba2(6, 3, 20, 10),
    "mamba2 2x80": lambda: Mamba2(2, 2, 80, 24, low=0.1, high=0.9),
    "mamba 70": lambda: Mamba(70, 16),
    "mamba 32": lambda: Mamba(32, 5),
}


@pytest.fixture(params=SCANS)
def scan(request: pytest.FixtureRequest) -> Any:
    return SCANS[request.param]()


@pytest.fixture(params=kernels.usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return kernels.load(request.param)


def pool(scan: Any) -> Tensor:
    return torch.randn(8, *scan.shape, generator=torch.Generator().manual_seed(1))


def states(lengths: list[int], before: list[int], slots: list[int]) -> States:
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    kept = [a + b for a, b in zip(lengths, before, strict=True)]
    return States(*(torch.tensor(one, dtype=torch.int32) for one in (starts, kept, slots)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_against_the_formula(ops: Ops, scan: Any, dtype: torch.dtype) -> None:
    """Each sequence from its own state, or from zeros whatever lies in its slot, and nothing else is touched."""
    state = pool(scan)
    for slot, before in zip(SLOTS, BEFORE, strict=True):
        if not before:
            state[slot] = math.nan
    start, rows = state.clone(), sum(LENGTHS)
    inputs = scan.inputs(rows + IDLE, dtype)
    got = scan.apply(ops, inputs, state, states(LENGTHS, BEFORE, SLOTS))
    assert got.dtype == dtype
    assert not got[rows:].any()
    first = 0
    for length, before, slot in zip(LENGTHS, BEFORE, SLOTS, strict=True):
        h = start[slot].double() if before else torch.zeros(scan.shape, dtype=torch.float64)
        if length:
            expected = scan.formula([one[first : first + length] for one in inputs], h)
            torch.testing.assert_close(got[first : first + length], expected.to(dtype), **TOLERANCE[dtype])
            torch.testing.assert_close(state[slot], h.float(), rtol=2e-5, atol=5e-6)
        first += length
    others = [slot for slot in range(8) if slot not in SLOTS or not LENGTHS[SLOTS.index(slot)]]
    assert torch.equal(state[others].nan_to_num(7.0), start[others].nan_to_num(7.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_steps_and_no_company_change_a_bit(ops: Ops, scan: Any, dtype: torch.dtype) -> None:
    inputs = scan.inputs(32, dtype)
    whole_state = pool(scan)
    whole = scan.apply(ops, inputs, whole_state, states([23], [0], [4]))[:23]
    other = scan.inputs(32, dtype, seed=5)
    for pieces in ([1] * 23, [3, 4, 16], [22, 1]):
        state, done = pool(scan), 0
        for piece in pieces:
            mixed = [torch.cat([b[:2], a[done : done + piece], b[2:9]]) for a, b in zip(inputs, other, strict=True)]
            got = scan.apply(ops, mixed, state, states([2, piece, 7], [0, done, 9], [1, 6, 2]))
            assert torch.equal(got[2 : 2 + piece], whole[done : done + piece])
            done += piece
        assert torch.equal(state[6], whole_state[4])


def test_threads_change_nothing(ops: Ops, scan: Any) -> None:
    inputs, before, results = scan.inputs(sum(LENGTHS), torch.float32), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            kernels.set_threads(threads)
            state = pool(scan)
            results.append((scan.apply(ops, inputs, state, states(LENGTHS, BEFORE, SLOTS)), state))
    finally:
        kernels.set_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_is_not_finite_stays_in_its_sequence(ops: Ops, scan: Any) -> None:
    inputs, state = scan.inputs(sum(LENGTHS), torch.float32), pool(scan)
    clean = scan.apply(ops, inputs, state.clone(), states(LENGTHS, BEFORE, SLOTS))
    inputs[0][9, 0] = math.nan
    inputs[1][9] = math.inf
    got = scan.apply(ops, inputs, state, states(LENGTHS, BEFORE, SLOTS))
    assert not got[9].isfinite().all()
    untouched = [*range(9), *range(20, sum(LENGTHS))]
    assert torch.equal(got[untouched], clean[untouched])


def test_small_times_are_exact(ops: Ops) -> None:
    """The softplus of what lies far below 0 keeps its digits."""
    scan = Mamba2(16, 1, 1, 1)
    dt = torch.linspace(-40, 12, 16)[None].repeat(16, 1)
    ones = torch.ones(16, scan.scan.width)
    learned = scan.scan._replace(bias=torch.zeros(16), skip=torch.zeros(16))
    got = ops.mamba2_scan(ones, dt, learned, torch.zeros(1, 16, 1, 1), states([1], [0], [0]))
    torch.testing.assert_close(got[0].double(), torch.log1p(torch.exp(dt[0].double())), rtol=5e-7, atol=0)
