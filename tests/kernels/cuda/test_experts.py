"""Products of rows by the weights of their experts: right, exact in int8, the same in any company, and decided on the device."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from infer import kernels
from infer.kernels.cuda import experts
from infer.kernels.ops import Ops, ScaledRows

from .compare import on, tensors

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}
#: (out, in)
SHAPES = [(96, 64), (33, 17), (70, 200)]
#: Rows of each expert.
COUNTS = [[16], [0, 5, 0, 0, 67, 1, 12, 3], [0, 0, 0], [1] * 5, [64, 0, 16]]


@pytest.fixture
def ops() -> Ops:
    return kernels.load("cuda")


def made(counts: list[int], out: int, size: int, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    g = torch.Generator().manual_seed(out)
    x = torch.randn(sum(counts), size, generator=g).to(dtype)
    weights = [torch.randn(out, size, generator=g).to(dtype) for _ in counts]
    return x, weights, [torch.randn(out, generator=g).to(dtype) for _ in counts]


def starts_of(counts: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([*accumulate(counts, initial=0)], device=device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "size"), SHAPES)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_right(ops: Ops, device: torch.device, counts: list[int], out: int, size: int, dtype: torch.dtype) -> None:
    x, weights, biases = made(counts, out, size, dtype)
    there = [weight.to(device) for weight in weights]
    for bias in (None, biases):
        got = ops.linear_experts(x.to(device), there, starts_of(counts, device), bias and [b.to(device) for b in bias]).cpu()
        assert (got.shape, got.dtype) == ((len(x), out), dtype)
        added = bias or [torch.zeros(out)] * len(counts)
        parts = zip(x.double().split(counts), weights, added, strict=True)
        expected = torch.cat([part @ w.double().T + b.double() for part, w, b in parts])
        assert (got - expected).norm() <= expected.norm() * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_int8_is_the_reference_to_the_bit(ops: Ops, device: torch.device, counts: list[int], dtype: torch.dtype) -> None:
    reference = kernels.load("reference")
    x, weights, biases = made(counts, 33, 48, dtype)
    rows = reference.quantize(x)
    packed = [reference.pack_int8(weight) for weight in weights]
    there = [type(one)(*(part.to(device) for part in one)) for one in packed]
    for bias in (None, biases):
        want = reference.linear_experts_int8(rows, packed, starts_of(counts, torch.device("cpu")), bias, dtype)
        got = ops.linear_experts_int8(on(device, rows), there, starts_of(counts, device), bias and [b.to(device) for b in bias], dtype)
        assert isinstance(got, ScaledRows) == isinstance(want, ScaledRows)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(tensors(got), tensors(want), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_gets_the_same_in_any_company(ops: Ops, device: torch.device, dtype: torch.dtype) -> None:
    counts = [70, 0, 13, 1]
    x, weights, _ = made(counts, 72, 96, dtype)
    x, there = x.to(device), [weight.to(device) for weight in weights]
    whole = ops.linear_experts(x, there, starts_of(counts, device), None)
    for expert, first, count in ((0, 0, 1), (0, 30, 40), (2, 75, 3), (3, 83, 1)):
        alone = [count if e == expert else 0 for e in range(len(counts))]
        assert torch.equal(
            ops.linear_experts(x[first : first + count].clone(), there, starts_of(alone, device), None), whole[first : first + count]
        )


def test_there_are_programs_for_every_tile_of_rows() -> None:
    for counts in (*COUNTS, [64, 64], [65, 1, 1, 1], [63] * 7):
        tiles = sum(-(-count // 64) for count in counts)
        assert tiles <= experts._most_tiles(sum(counts), len(counts), 64) <= tiles + len(counts)


def test_weights_that_lie_unevenly(ops: Ops, device: torch.device) -> None:
    """Their distances are then no multiples of what is read at once."""
    room = torch.randn(3, 24 * 40 + 1, generator=torch.Generator().manual_seed(0)).to(device)
    weights = [row[:-1].view(24, 40) for row in room]
    assert not experts._distances(experts._addresses(weights), 4, device)[1]
    x = torch.randn(12, 40, generator=torch.Generator().manual_seed(1)).to(device)
    got = ops.linear_experts(x, weights, torch.tensor([0, 4, 8, 12], device=device), None)
    expected = torch.cat([part @ weight.T for part, weight in zip(x.split(4), weights, strict=True)])
    torch.testing.assert_close(got, expected)
