"""Integer products: exact, the same in any company, as the reference to the bit."""

from __future__ import annotations

import pytest
import torch

from infer import kernels
from infer.kernels.ops import INT8_ZERO, Ops, ScaledRows
from infer.kernels.reference import int8 as exact

from .compare import on, take, tensors

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def ops() -> Ops:
    return kernels.load("cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "size"), [(96, 64), (33, 17), (70, 1000)])
@pytest.mark.parametrize("bias", [False, True])
def test_exact_and_the_same_in_any_company(ops: Ops, device: torch.device, out: int, size: int, dtype: torch.dtype, bias: bool) -> None:
    g = torch.Generator().manual_seed(out)
    x, w = torch.randn(80, size, generator=g).to(dtype), torch.randn(out, size, generator=g).to(dtype)
    b = torch.randn(out, generator=g).to(dtype) if bias else None
    rows = kernels.load("reference").quantize(x)
    want = exact.linear_int8(rows, exact.pack_int8(w), b, dtype)
    packed, there, b_there = ops.pack_int8(w.to(device)), on(device, rows), None if b is None else b.to(device)
    got = ops.linear_int8(there, packed, b_there, dtype)
    assert type(got) is type(want)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(tensors(got), tensors(want), strict=True))
    for part in (slice(0, 1), slice(16, 48), slice(64, 80)):
        few = ops.linear_int8(take(there, part), packed, b_there, dtype)
        assert all(torch.equal(a, b) for a, b in zip(tensors(few), tensors(take(got, part)), strict=True))


def test_sums_of_the_largest_values(ops: Ops, device: torch.device) -> None:
    size = 8192
    weight = torch.full((16, size), 127.0)
    weight[1::2] = -127
    values = torch.full((16, size), INT8_ZERO + 127, dtype=torch.uint8)
    values[1], values[2], values[3] = INT8_ZERO - 127, INT8_ZERO, 0
    rows = ScaledRows(values.to(device), torch.ones(16, device=device))
    got = ops.linear_int8(rows, ops.pack_int8(weight.to(device)), None, torch.float32)
    assert isinstance(got, ScaledRows)
    assert torch.equal(got.values.cpu().double(), (values.double() - INT8_ZERO) @ weight.double().T)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_of_no_scale_and_bad_rows(ops: Ops, device: torch.device) -> None:
    x, w = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)), torch.randn(24, 64)
    x[0] = 0
    packed = ops.pack_int8(w.to(device))
    clean = ops.linear_int8(ops.quantize(x.to(device)), packed, None, torch.float16)
    assert isinstance(clean, torch.Tensor)  # in float16 the scales cannot wait
    assert not clean[0].any()
    x[3, 5], x[9, 0] = float("nan"), float("inf")
    got = ops.linear_int8(ops.quantize(x.to(device)), packed, None, torch.float16)
    assert isinstance(got, torch.Tensor)
    assert not got[[3, 9]].isfinite().any()
    others = [i for i in range(16) if i not in (3, 9)]
    assert torch.equal(got[others], clean[others])
