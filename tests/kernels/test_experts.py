"""Rows by the weights of their experts: as each expert's multiplication alone, whatever the others have, also where some have no rows."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from infer.core.quant.packed import tensors_of, with_tensors
from infer.kernels import load, usable
from infer.kernels.grouped import GroupedWeight
from infer.kernels.ops import Ops, Rows, ScaledRows
from infer.kernels.reference import grouped as exact_grouped
from infer.kernels.reference import int8 as exact

from .test_grouped import made as made_grouped
from .test_grouped import need, rows_of

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


@pytest.mark.parametrize("fits", [(0, 1, 2), (1,), ()], ids=["all", "some", "none"])
@pytest.mark.parametrize(("out", "size"), SHAPES)
def test_float32_weights_that_bfloat16_has(ops: Ops, out: int, size: int, fits: tuple[int, ...]) -> None:
    """Each expert's product has the bits of its weight's alone, be all kept as bf16, some or none."""
    counts = [5, 40, 2]
    x, weights, biases = made(counts, out, size, torch.float32)
    weights = [weight.bfloat16().float() if i in fits else weight for i, weight in enumerate(weights)]
    packed = [ops.pack_weight(weight.clone()) for weight in weights]
    alone = [ops.linear(rows, weight, bias) for rows, weight, bias in zip(x.split(counts), packed, biases, strict=True)]
    got = ops.linear_experts(x, packed, starts_of(counts), biases)
    if ops.any_rows(packed[0]):
        assert torch.equal(got, torch.cat(alone))
    else:
        assert (got - torch.cat(alone)).norm() <= 2e-6 * got.norm()


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


#: Forms of weights in groups, and (out, in, group): tails of panels and groups, groups longer than a span, odd ones.
FORMS = ["GPTQ", "Q4_K", "IQ4_NL", "int8 with zeros", "Q6_K"]
GROUPED = [(33, 260, 16), (96, 384, 64), (40, 516, 516), (70, 600, 200)]


def grouped(form: str, experts: int, out: int, size: int, group: int) -> list[GroupedWeight]:
    """Of each expert another one; in the third all zeros are alike, and kept as one."""
    whole = made_grouped(form, experts * out, size, group)

    def part(tensor: torch.Tensor, expert: int) -> torch.Tensor:
        return tensor if tensor is whole.levels else tensor[expert * out : (expert + 1) * out]

    parts = [with_tensors(whole, [part(tensor, e) for tensor in tensors_of(whole)]) for e in range(experts)]
    if experts > 2 and whole.zero is not None:
        parts[2] = parts[2]._replace(zero=torch.full_like(parts[2].zero, 5))
    return parts


@pytest.mark.parametrize("quantize_input", [True, False], ids=["int8 rows", "plain rows"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("out", "size", "group"), GROUPED)
def test_weights_in_groups(ops: Ops, form: str, out: int, size: int, group: int, quantize_input: bool) -> None:
    """Each row as by its expert's weight alone, which `linear_grouped` is tested for; by quantized rows the reference's bits."""
    need(ops, size, group, quantize_input=quantize_input)
    for counts, dtype in (([3, 0, 17, 1, 300, 8], torch.bfloat16), ([0] * 3, torch.float32), ([0, 9, 0, 50], torch.float16)):
        weights, x = grouped(form, len(counts), out, size, group), rows_of(size, dtype, sum(counts))
        packed = [ops.pack_grouped(weight, dtype, quantize_input=quantize_input) for weight in weights]
        oracle = [exact_grouped.pack_grouped(weight, dtype, quantize_input=quantize_input) for weight in weights]
        biases = list(rows_of(out, torch.float32, len(counts)))
        for bias in (None, biases):
            got = ops.linear_experts_grouped(x, packed, starts_of(counts), bias)
            assert (got.shape, got.dtype) == ((len(x), out), dtype)
            for e, (part, mine) in enumerate(zip(x.split(counts), got.split(counts), strict=True)):
                assert torch.equal(mine, ops.linear_grouped(part, packed[e], bias and bias[e]))
                if quantize_input:
                    assert torch.equal(mine, exact_grouped.linear_grouped(part, oracle[e], bias and bias[e]))


def test_weights_in_groups_of_several_forms(ops: Ops) -> None:
    """One has a minimum and another a table: each is multiplied for itself."""
    need(ops, 256, 32, quantize_input=False)
    counts, x = [5, 20, 7], rows_of(256, torch.float32, 32)
    weights = [made_grouped(form, 40, 256, 32) for form in ("Q4_0", "Q4_K", "IQ4_NL")]
    packed = [ops.pack_grouped(weight, torch.float32, quantize_input=False) for weight in weights]
    got = ops.linear_experts_grouped(x, packed, starts_of(counts), None)
    for part, mine, one in zip(x.split(counts), got.split(counts), packed, strict=True):
        assert torch.equal(mine, ops.linear_grouped(part, one, None))


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


@pytest.mark.parametrize("kind", ["plain", "int8", "grouped"])
def test_rows_of_nobody(ops: Ops, kind: str) -> None:
    """Behind those of the last expert, whose products do not change for them."""
    if kind == "int8" and not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    need(ops, 64, 32, quantize_input=False)
    x, weights, _ = made([3, 0, 20], 40, 64, torch.float32)

    def products(counts: list[int]) -> torch.Tensor:
        if kind == "plain":
            return ops.linear_experts(x, [ops.pack_weight(weight.clone()) for weight in weights], starts_of(counts), None)
        if kind == "grouped":
            packed = [ops.pack_grouped(one, torch.float32, quantize_input=False) for one in grouped("Q4_0", 3, 40, 64, 32)]
            return ops.linear_experts_grouped(x, packed, starts_of(counts), None)
        return tensors(ops.linear_experts_int8(ops.quantize(x), list(map(ops.pack_int8, weights)), starts_of(counts), None, torch.float32))[
            0
        ]

    whole = products([3, 0, 20])
    for counts in ([3, 0, 9], [0, 0, 0]):
        some = products(counts)
        assert some.shape == whole.shape
        assert torch.equal(some[: sum(counts)], whole[: sum(counts)])
