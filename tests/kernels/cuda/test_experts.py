"""Products of rows by the weights of their experts: right, exact in int8, the same in any company, and decided on the device."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from infer import kernels
from infer.kernels.cuda import experts
from infer.kernels.ops import Ops, ScaledRows
from infer.kernels.reference import grouped as exact_grouped

from ..test_experts import grouped as in_groups
from ..test_grouped import made as made_grouped
from ..test_grouped import rows_of
from .compare import on, tensors
from .test_grouped import there

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
        assert tiles <= experts.most_tiles(sum(counts), len(counts), 64) <= tiles + len(counts)


def test_weights_that_lie_unevenly(ops: Ops, device: torch.device) -> None:
    """Their distances are then no multiples of what is read at once."""
    room = torch.randn(3, 24 * 40 + 1, generator=torch.Generator().manual_seed(0)).to(device)
    weights = [row[:-1].view(24, 40) for row in room]
    assert not experts.distances(experts.addresses_of(weights), 4, device)[1]
    x = torch.randn(12, 40, generator=torch.Generator().manual_seed(1)).to(device)
    got = ops.linear_experts(x, weights, torch.tensor([0, 4, 8, 12], device=device), None)
    expected = torch.cat([part @ weight.T for part, weight in zip(x.split(4), weights, strict=True)])
    torch.testing.assert_close(got, expected)


def test_int8_weights_that_lie_unevenly(ops: Ops, device: torch.device) -> None:
    """To the bit what they give where they lie evenly, though tiles are others."""
    x, weights, _ = made([4, 0, 9], 24, 200, torch.float32)
    rows, packed = ops.quantize(x.to(device)), [ops.pack_int8(weight.to(device)) for weight in weights]
    room = torch.zeros(3, 24 * 200 + 1, dtype=torch.int8, device=device)
    uneven = [one._replace(values=part[:-1].view(24, 200).copy_(one.values)) for one, part in zip(packed, room, strict=True)]
    assert not experts.distances(experts.addresses_of([one.values for one in uneven]), 1, device)[1]
    one, other = (ops.linear_experts_int8(rows, those, starts_of([4, 0, 9], device), None, torch.float32) for those in (packed, uneven))
    assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.parametrize("form", ["GPTQ", "Q4_K", "IQ4_NL", "Q6_K"])
def test_weights_in_groups(ops: Ops, device: torch.device, form: str) -> None:
    """The reference's products."""
    counts, x = [3, 0, 20, 1], rows_of(132, torch.bfloat16, 24)
    weights, biases = in_groups(form, len(counts), 33, 132, 32), list(rows_of(33, torch.float32, len(counts)))
    packed = [ops.pack_grouped(there(weight, device), torch.bfloat16, quantize_input=False) for weight in weights]
    oracle = [exact_grouped.pack_grouped(weight, torch.bfloat16, quantize_input=False) for weight in weights]
    got = ops.linear_experts_grouped(x.to(device), packed, starts_of(counts, device), [one.to(device) for one in biases]).cpu()
    want = kernels.load("reference").linear_experts_grouped(x, oracle, starts_of(counts, torch.device("cpu")), biases)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert (got.double() - want.double()).norm() <= TOLERANCE[torch.bfloat16] * want.double().norm()
    none = ops.linear_experts_grouped(x[:0].to(device), packed, starts_of([0] * 4, device), None)
    assert none.shape == (0, 33)


def test_weights_in_groups_give_rows_the_same_in_any_company(ops: Ops, device: torch.device) -> None:
    """Where that is asked for: as each expert's weight alone, by several pieces of input features."""
    ops.deterministic = True
    counts, x = [2, 0, 17], rows_of(1120, torch.bfloat16, 19).to(device)
    packed = [ops.pack_grouped(there(one, device), torch.bfloat16, quantize_input=False) for one in in_groups("Q4_K", 3, 24, 1120, 32)]
    got = ops.linear_experts_grouped(x, packed, starts_of(counts, device), None)
    for part, mine, one in zip(x.split(counts), got.split(counts), packed, strict=True):
        assert torch.equal(mine, ops.linear_grouped(part, one, None))


def test_weights_in_groups_of_several_forms(ops: Ops, device: torch.device) -> None:
    counts, x = [5, 20], rows_of(64, torch.float32, 25).to(device)
    packed = [
        ops.pack_grouped(there(made_grouped(form, 40, 64, 32), device), torch.float32, quantize_input=False) for form in ("Q4_0", "Q4_K")
    ]
    got = ops.linear_experts_grouped(x, packed, starts_of(counts, device), None)
    for part, mine, one in zip(x.split(counts), got.split(counts), packed, strict=True):
        torch.testing.assert_close(mine, ops.linear_grouped(part, one, None))


def test_rows_of_nobody(ops: Ops, device: torch.device) -> None:
    """Behind those of the last expert, whose products do not change for them."""
    x, weights, _ = made([3, 0, 20], 40, 48, torch.float32)
    there = [weight.to(device) for weight in weights]
    whole = ops.linear_experts(x.to(device), there, starts_of([3, 0, 20], device), None)
    some = ops.linear_experts(x.to(device), there, starts_of([3, 0, 9], device), None)
    assert some.shape == whole.shape
    assert torch.equal(some[:12], whole[:12])
