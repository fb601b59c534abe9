"""Rows by the weights of their experts: as each expert's multiplication alone, whatever the others have, also where some have no rows."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from infer.kernels import load, usable
from infer.kernels.ops import Ops, Rows, ScaledRows
from infer.kernels.reference import int8 as exact

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
#: (out, in): of no multiple of anything, many panels, long sums.
SHAPES = [(33, 17), (200, 100), (40, 2048)]
#: Rows of each expert.
COUNTS = [[16], [0, 5, 0, 0, 27, 1, 12, 3], [0, 0, 0], [1] * 16, [160, 0, 16], [0] * 40 + [13, 3], [3, 700]]


@pytest.fixture(params=usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return load(request.param)


def made(counts: list[int], out: int, size: int, dtype: torch.dtype) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Rows, and weights and biases of each expert."""
    g = torch.Generator().manual_seed(out)
    x = torch.randn(sum(counts), size, generator=g).to(dtype)
    weights = [torch.randn(out, size, generator=g).to(dtype) for _ in counts]
    return x, weights, [torch.randn(out, generator=g).to(dtype) for _ in counts]


def starts_of(counts: list[int]) -> torch.Tensor:
    return torch.tensor([*accumulate(counts, initial=0)])


def tensors(rows: Rows) -> tuple[torch.Tensor, ...]:
    return (rows,) if isinstance(rows, torch.Tensor) else tuple(rows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "size"), SHAPES)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_right_with_and_without_bias(ops: Ops, counts: list[int], out: int, size: int, dtype: torch.dtype) -> None:
    x, weights, biases = made(counts, out, size, dtype)
    packed = [ops.pack_weight(weight.clone()) for weight in weights]
    for bias in (None, biases):
        got = ops.linear_experts(x, packed, starts_of(counts), bias)
        assert (got.shape, got.dtype) == ((len(x), out), dtype)
        parts = x.double().split(counts)
        added = bias or [torch.zeros(out)] * len(counts)
        expected = torch.cat([part @ w.double().T + b.double() for part, w, b in zip(parts, weights, added, strict=True)])
        tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]
        assert (got - expected).norm() <= expected.norm() * tolerance


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "size"), SHAPES)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_int8_is_exact(ops: Ops, counts: list[int], out: int, size: int, dtype: torch.dtype) -> None:
    if not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    x, weights, biases = made(counts, out, size, dtype)
    rows, packed = ops.quantize(x), [ops.pack_int8(weight.clone()) for weight in weights]
    for bias in (None, biases):
        got = ops.linear_experts_int8(rows, packed, starts_of(counts), bias, dtype)
        parts = zip(rows.values.split(counts), rows.scale.split(counts), strict=True)
        expected = [
            tensors(exact.linear_int8(ScaledRows(*part), exact.pack_int8(w), bias and bias[e], dtype))
            for e, (part, w) in enumerate(zip(parts, weights, strict=True))
        ]
        assert isinstance(got, ScaledRows) == (bias is None and dtype != torch.float16)
        for a, b in zip(tensors(got), map(torch.cat, zip(*expected, strict=True)), strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("int8", [False, True], ids=["plain", "int8"])
def test_a_row_gets_the_same_in_any_company(ops: Ops, dtype: torch.dtype, int8: bool) -> None:
    """Alone with its expert, and beside any number of its own and others' rows."""
    if int8 and not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    counts = [70, 0, 13, 300, 1]
    x, weights, biases = made(counts, 72, 96, dtype)
    packed = [(ops.pack_int8 if int8 else ops.pack_weight)(weight) for weight in weights]

    def product(rows: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        if not int8:
            return ops.linear_experts(rows, packed, starts, biases)
        got = ops.linear_experts_int8(ops.quantize(rows), packed, starts, biases, dtype)
        assert isinstance(got, torch.Tensor)
        return got

    def alike() -> bool:
        whole = product(x, starts_of(counts))
        for expert, first, count in ((0, 0, 1), (0, 30, 40), (2, 75, 3), (3, 83, 16), (3, 200, 150), (4, 383, 1)):
            alone = [count if e == expert else 0 for e in range(len(counts))]
            if not torch.equal(product(x[first : first + count].clone(), starts_of(alone)), whole[first : first + count]):
                return False
        return True

    if not alike():  # a library's product that is not row-wise on this CPU: the engine's probe finds it out and takes fixed chunks
        ops.row_chunk = 64
        assert alike()
