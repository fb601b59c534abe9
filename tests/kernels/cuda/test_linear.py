"""The matrix product that is the same in any company: right, and the same bits however many rows there are."""

from __future__ import annotations

import pytest
import torch

from infer import kernels
from infer.kernels.cuda.linear import invariant_linear
from infer.kernels.ops import Ops

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}
#: (out, in): of a small model, of none (no multiple of anything), a long sum, more outputs than a tile.
SHAPES = [(96, 64), (33, 17), (40, 1000), (200, 128)]


@pytest.fixture
def ops() -> Ops:
    made = kernels.load("cuda")
    made.deterministic = True  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "size"), SHAPES)
def test_right_and_the_same_in_any_company(ops: Ops, device: torch.device, out: int, size: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(out)
    x = torch.randn(144, size, generator=g).to(device, dtype)
    w, b = torch.randn(out, size, generator=g).to(device, dtype), torch.randn(out, generator=g).to(device, dtype)
    for bias in (None, b):
        whole = ops.linear(x, ops.pack_weight(w), bias)
        expected = x.double() @ w.double().T + (0 if bias is None else bias.double())
        assert whole.dtype == dtype
        assert (whole - expected).norm() / expected.norm() < TOLERANCE[dtype]
        for first, rows in [(0, 1), (0, 16), (16, 32), (77, 1), (80, 64)]:
            assert torch.equal(ops.linear(x[first : first + rows].clone(), w, bias), whole[first : first + rows])


def test_inputs_may_be_strided(device: torch.device) -> None:
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(20, 70, generator=g).to(device), torch.randn(30, 70, generator=g).to(device)
    whole = invariant_linear(x[:, 10:50].contiguous(), w[:, 10:50].contiguous(), None)
    assert torch.equal(invariant_linear(x[:, 10:50], w[:, 10:50], None), whole)
    assert torch.equal(invariant_linear(x[:, 10:50].T.contiguous().T, w[:, 10:50].T.contiguous().T, None), whole)


def test_no_rows(ops: Ops, device: torch.device) -> None:
    assert ops.linear(torch.empty(0, 64, device=device), torch.ones(96, 64, device=device), None).shape == (0, 96)


def test_what_is_not_finite_stays_in_its_row(ops: Ops, device: torch.device) -> None:
    x, w = torch.randn(16, 40, device=device), torch.randn(24, 40, device=device)
    clean = ops.linear(x, w, None)
    x[3, 5] = float("nan")
    got = ops.linear(x, w, None)
    assert not got[3].isfinite().any()
    others = [i for i in range(16) if i != 3]
    assert torch.equal(got[others], clean[others])


def test_the_library_is_the_default(device: torch.device) -> None:
    """In chunks of fixed size where that is asked for."""
    ops = kernels.load("cuda")
    x, w, b = (torch.randn(*shape, device=device) for shape in ((48, 40), (24, 40), (24,)))
    assert torch.equal(ops.linear(x, ops.pack_weight(w), b), torch.nn.functional.linear(x, w, b))
    ops.row_chunk = 32
    torch.testing.assert_close(ops.linear(x, w, b), torch.nn.functional.linear(x, w, b))
