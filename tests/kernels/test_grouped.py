"""Weights in groups, of every backend: unpacked exactly, multiplied as the reference does, and each row the same bits in any company."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from infer.core.quant.packed import tensors_of, with_tensors
from infer.kernels import load, set_threads, usable
from infer.kernels.cpu import grouped as cpu_grouped
from infer.kernels.grouped import SPAN, GroupedWeight, Scales, malformed, steps
from infer.kernels.ops import Ops
from infer.kernels.reference import grouped as exact

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
#: (out, in, group): of a small model, and of none: tails of panels and of groups, groups longer than a span, and groups of no power of 2.
SHAPES = [
    (96, 64, 32),
    (31, 256, 128),
    (33, 260, 16),
    (1, 4, 4),
    (100, 384, 64),
    (40, 516, 516),
    (32, 600, 200),
    (33, 100, 12),
    (64, 288, 96),
    (5, 1028, 4096),
]
#: Codes (bits and whether a table says what they stand for), scales, zeros and minimums, as formats of checkpoints combine them.
FORMS = {
    "GPTQ": (4, False, "float16", True, False),
    "AWQ in bfloat16": (4, False, "bfloat16", True, False),
    "Q4_0": (4, False, "float16", False, False),
    "Q4_1": (4, False, "float16", "none", True),
    "Q4_K": (4, False, "blocks", "none", True),
    "IQ4_NL": (4, True, "float16", False, False),
    "levels with zeros": (4, True, "float32", True, True),
    "int8": (8, False, "float32", False, False),
    "int8 with zeros": (8, False, "bfloat16", True, False),
    "Q6_K": (8, False, "signed blocks", False, False),
}
ROWS = [1, 2, 7, 8, 9, 31, 300]


@pytest.fixture(params=usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return load(request.param)


@pytest.fixture
def one_thread_more() -> Iterator[None]:
    threads = torch.get_num_threads()
    set_threads(threads + 1)
    yield
    set_threads(threads)


def need(ops: Ops, size: int, group: int, *, quantize_input: bool) -> None:
    if reason := ops.grouped_refusal(size, group, quantize_input=quantize_input):
        pytest.skip(reason)


def made(form: str, out: int, size: int, group: int) -> GroupedWeight:
    bits, table, kind, zero, minimum = FORMS[form]
    g = torch.Generator().manual_seed(size + out)
    groups = -(-size // group)

    def scales() -> Scales:
        if "blocks" not in kind:
            return Scales((torch.rand(out, groups, generator=g) * 0.02 + 1e-3).to(getattr(torch, kind)))
        factor = (torch.rand(out, -(-groups // 8), generator=g) * 1e-3).to(torch.float16)
        if kind == "signed blocks":
            return Scales(torch.randint(-128, 128, (out, groups), generator=g, dtype=torch.int8), factor, 8)
        return Scales(torch.randint(0, 64, (out, groups), generator=g, dtype=torch.uint8), factor, 8)

    zeros = None
    if zero:
        zeros = torch.randint(0, 1 << bits if zero is True else 1, (out, groups), generator=g, dtype=torch.uint8)
    return GroupedWeight(
        codes=torch.randint(0, 1 << bits, (out, size), generator=g, dtype=torch.uint8),
        bits=bits,
        group_size=group,
        scale=scales(),
        zero=zeros,
        minimum=scales() if minimum else None,
        levels=torch.randint(-128, 128, (16,), generator=g, dtype=torch.int8) if table else None,
    )


def rows_of(size: int, dtype: torch.dtype, count: int = 300) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(size)).to(dtype)


# -- what a weight means ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("out", "size", "group"), SHAPES)
def test_dequantized_as_its_definition_says(ops: Ops, form: str, out: int, size: int, group: int) -> None:
    weight = made(form, out, size, group)
    of = np.arange(size) // group

    def wide(scales: Scales) -> np.ndarray:
        values = scales.values.double().numpy()
        if scales.factor is not None:  # 8 bits times 11: exact
            values = values * scales.factor.double().numpy()[:, np.arange(values.shape[1]) // scales.per_block]
        return values[:, of]

    codes = weight.codes.numpy()
    levels = codes.astype(np.float64) if weight.levels is None else weight.levels.double().numpy()[codes]
    if weight.zero is not None:
        zero: np.ndarray | float = weight.zero.double().numpy()[:, of]
    else:
        zero = 0.0 if weight.levels is not None else 2.0 ** (weight.bits - 1)
    expected = ((levels - zero) * wide(weight.scale)).astype(np.float32)  # each product has 33 bits at most: rounded once
    if weight.minimum is not None:
        expected = (expected.astype(np.float64) + wide(weight.minimum)).astype(np.float32)
    assert np.array_equal(ops.dequantize_grouped(weight).numpy(), expected)


@pytest.mark.parametrize(("size", "group"), [(512, 32), (100, 12), (600, 200), (1028, 1028), (300, 96), (64, 4), (4, 4)])
def test_steps_cover_a_row_and_keep_to_a_group_and_a_span(size: int, group: int) -> None:
    parts = [*steps(size, group)]
    assert [i for part in parts for i in range(part.start, part.stop)] == [*range(size)]
    for part in parts:
        assert {i // group for i in range(part.start, part.stop)} == {part.group}
    for span in range(parts[-1].span + 1):
        own = [part for part in parts if part.span == span]
        assert 0 < own[-1].stop - own[0].start <= SPAN
        assert group > SPAN or len(own) == SPAN // group or own[-1] is parts[-1]


# -- products ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("out", "size", "group"), SHAPES)
def test_quantized_rows_give_the_references_bits(form: str, out: int, size: int, group: int) -> None:
    ops = load("cpu")
    need(ops, size, group, quantize_input=True)
    weight = made(form, out, size, group)
    for dtype in DTYPES:
        packed, oracle = (one.pack_grouped(weight, dtype, quantize_input=True) for one in (ops, exact))
        bias = rows_of(out, dtype, 1)[0] if dtype != torch.float16 else None
        x = rows_of(size, dtype)
        whole = exact.linear_grouped(x, oracle, bias)
        assert whole.dtype == dtype
        for count in ROWS:
            assert torch.equal(ops.linear_grouped(x[:count], packed, bias), whole[:count]), (dtype, count)
        assert torch.equal(ops.linear_grouped(x[200:213].clone(), packed, bias), whole[200:213])


@pytest.mark.parametrize("most", [16, 128, 129, 255])
def test_zeros_beyond_the_codes(most: int) -> None:
    ops = load("cpu")
    need(ops, 260, 32, quantize_input=True)
    zero = torch.randint(0, most + 1, (33, 9), generator=torch.Generator().manual_seed(most), dtype=torch.uint8)
    zero[::16, ::8] = most
    weight, x = made("GPTQ", 33, 260, 32)._replace(zero=zero), rows_of(260, torch.float32, 14)
    packed, oracle = (one.pack_grouped(weight, torch.float32, quantize_input=True) for one in (ops, exact))
    assert torch.equal(ops.linear_grouped(x, packed, None), exact.linear_grouped(x, oracle, None))


@pytest.mark.parametrize("form", ["Q4_0", "Q4_1", "int8 with zeros"])
def test_the_reference_multiplies_what_the_weight_means(form: str) -> None:
    weight = made(form, 33, 260, 32)
    packed, x = exact.pack_grouped(weight, torch.float32, quantize_input=True), rows_of(260, torch.float32, 40)
    whole = exact.linear_grouped(x, packed, None)
    true = x.double() @ exact.dequantize_grouped(weight).double().T
    assert 1e-4 < (whole - true).norm() / true.norm() < 0.02
    assert torch.equal(exact.linear_grouped(x[3:4], packed, None), whole[3:4])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("out", "size", "group"), SHAPES)
def test_plain_rows_are_multiplied_by_the_widened_weight(ops: Ops, form: str, out: int, size: int, group: int) -> None:
    need(ops, size, group, quantize_input=False)
    weight = made(form, out, size, group)
    for dtype, tolerance in ((torch.float32, 3e-6), (torch.bfloat16, 5e-3), (torch.float16, 1e-3)):
        packed = ops.pack_grouped(weight, dtype, quantize_input=False)
        bias = rows_of(out, torch.float32, 1)[0] if dtype != torch.bfloat16 else None
        x = rows_of(size, dtype, 40)
        whole = ops.linear_grouped(x, packed, bias)
        assert whole.dtype == dtype
        true = x.double() @ ops.dequantize_grouped(weight).to(dtype).double().T + (0 if bias is None else bias.double())
        assert (whole - true).norm() <= tolerance * true.norm()
        if ops.name == "cpu":
            for first, count in ((0, 1), (3, 13), (16, 24)):
                assert torch.equal(ops.linear_grouped(x[first : first + count].clone(), packed, bias), whole[first : first + count])


@pytest.mark.parametrize("quantize_input", [True, False])
def test_the_number_of_threads_changes_nothing(ops: Ops, quantize_input: bool, request: pytest.FixtureRequest) -> None:
    need(ops, 384, 64, quantize_input=quantize_input)
    packed = ops.pack_grouped(made("Q4_K", 100, 384, 64), torch.bfloat16, quantize_input=quantize_input)
    x = rows_of(384, torch.bfloat16, 50)
    before = ops.linear_grouped(x, packed, None)
    request.getfixturevalue("one_thread_more")
    assert torch.equal(ops.linear_grouped(x, packed, None), before)


def test_sums_of_the_largest_values(ops: Ops) -> None:
    """Codes, zeros and rows at their limits, where sums of 16 bits would saturate."""
    need(ops, 4096, 4096, quantize_input=True)
    codes = torch.full((32, 4096), 255, dtype=torch.uint8)
    codes[1::2] = 0
    zero = torch.zeros(32, 1, dtype=torch.uint8)
    zero[1::2] = 255
    weight = GroupedWeight(codes, 8, 4096, Scales(torch.ones(32, 1)), zero)
    x = torch.full((2, 4096), 127.0)
    x[1] = -127
    got = ops.linear_grouped(x, ops.pack_grouped(weight, torch.float32, quantize_input=True), None)
    assert torch.equal(got.double(), x.double() @ weight.signed().double().T)


@pytest.mark.parametrize("quantize_input", [True, False])
def test_no_rows(ops: Ops, quantize_input: bool) -> None:
    need(ops, 64, 32, quantize_input=quantize_input)
    packed = ops.pack_grouped(made("Q4_0", 96, 64, 32), torch.float32, quantize_input=quantize_input)
    assert ops.linear_grouped(torch.empty(0, 64), packed, None).shape == (0, 96)


@pytest.mark.parametrize("quantize_input", [True, False])
@pytest.mark.parametrize("form", ["Q4_0", "GPTQ", "Q4_K", "IQ4_NL"])
def test_a_bad_row_stays_alone(ops: Ops, quantize_input: bool, form: str) -> None:
    need(ops, 256, 32, quantize_input=quantize_input)
    packed = ops.pack_grouped(made(form, 96, 256, 32), torch.float32, quantize_input=quantize_input)
    x = rows_of(256, torch.float32, 16)
    x[7] = 0
    clean = ops.linear_grouped(x, packed, None)
    assert not clean[7].any()
    x[3, 5], x[9, 200], x[11, 31] = float("nan"), float("inf"), float("-inf")
    got = ops.linear_grouped(x, packed, None)
    assert not got[[3, 9, 11]].isfinite().any()
    others = [i for i in range(len(x)) if i not in (3, 9, 11)]
    assert torch.equal(got[others], clean[others])


# -- packing ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
def test_packed_bytes_are_codes_and_factors(form: str) -> None:
    need(load("cpu"), 256, 32, quantize_input=True)
    weight = made(form, 64, 256, 32)
    packed = cpu_grouped.pack_grouped(weight, torch.bfloat16, quantize_input=True)
    size = sum(tensor.numel() * tensor.itemsize for tensor in tensors_of(packed))
    kept = [
        *weight.scale[:2],
        *(weight.minimum or ())[:2],
        weight.levels,
        weight.zero if weight.zero is None or weight.zero.any() else None,
    ]
    factors = sum(tensor.numel() * tensor.itemsize for tensor in kept if tensor is not None)
    assert size == 64 * 256 * weight.bits // 8 + factors


def test_a_packed_weight_works_from_other_tensors(ops: Ops) -> None:
    """Where a replica or an adapter puts them."""
    need(ops, 256, 32, quantize_input=True)
    packed = ops.pack_grouped(made("levels with zeros", 64, 256, 32), torch.float32, quantize_input=True)
    x = rows_of(256, torch.float32, 4)
    before = ops.linear_grouped(x, packed, None)
    moved = with_tensors(packed, [tensor.clone() for tensor in tensors_of(packed)])
    for tensor in tensors_of(packed):
        tensor.zero_()
    assert torch.equal(ops.linear_grouped(x, moved, None), before)


def test_packing_leaves_the_weight_as_it_was(ops: Ops) -> None:
    need(ops, 64, 32, quantize_input=True)
    weight = made("GPTQ", 96, 64, 32)
    before = [tensor.clone() for tensor in tensors_of(weight)]
    ops.pack_grouped(weight, torch.bfloat16, quantize_input=True)
    assert all(map(torch.equal, tensors_of(weight), before))


def test_parts_that_do_not_fit_are_refused(ops: Ops) -> None:
    need(ops, 64, 32, quantize_input=True)
    good = made("Q4_K", 96, 64, 32)
    assert good.zero is not None
    assert good.scale.factor is not None
    wrong = {
        "codes of 3 bits": good._replace(bits=3),
        r"zero is \[96, 1\]; \[96, 2\] is right": good._replace(zero=good.zero[:, :1]),
        r"scale is \[95, 2\]": good._replace(scale=good.scale._replace(values=good.scale.values[1:])),
        "minimum is of torch.float64": good._replace(minimum=Scales(torch.ones(96, 2, dtype=torch.float64))),
        "scale is of torch.uint8": good._replace(scale=Scales(good.scale.values)),
        "factor is torch.float16": good._replace(scale=good.scale._replace(factor=good.scale.factor.repeat(1, 2))),
        "a table of levels": good._replace(levels=torch.zeros(15, dtype=torch.int8)),
        "codes and zeros are uint8": good._replace(codes=good.codes.char()),
    }
    assert malformed(good) == ""
    for message, weight in wrong.items():
        with pytest.raises(ValueError, match=message):
            ops.pack_grouped(weight, torch.float32, quantize_input=True)


# -- refusals ---------------------------------------------------------------------------------------------------------
def test_refused_where_the_cpu_lacks_dot_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_grouped.features, "features", lambda: frozenset({"avx2", "fma"}))
    assert "VNNI" in cpu_grouped.grouped_refusal(64, 32, quantize_input=True)


@pytest.mark.parametrize(("size", "group"), [(62, 32), (64, 6), (66, 66)])
def test_refused_where_the_shape_is_none_of_the_kernels(size: int, group: int) -> None:
    need(load("cpu"), 64, 32, quantize_input=False)
    assert f"{size} input features in groups of {group}" in cpu_grouped.grouped_refusal(size, group, quantize_input=False)
    with pytest.raises(ValueError, match="input features in groups"):
        cpu_grouped.pack_grouped(made("Q4_0", 8, size, group), torch.float32, quantize_input=False)


# -- the oracle itself ------------------------------------------------------------------------------------------------
def test_products_are_fused_with_one_rounding() -> None:
    """1 + 2^-24 lies in the middle of two float32, and what tips it is 2^-60 away: beyond float64."""
    tiny = torch.tensor([2.0**-30, -(2.0**-30), 0.0])
    middle = torch.tensor(2.0**-24)
    for sign in (1.0, -1.0):
        got = exact._fused(sign * tiny, torch.tensor(2.0**-30), torch.tensor(sign))
        assert got.tolist() == [sign] * 3
    a = torch.tensor([1 + 2.0**-12, 1 + 2.0**-12])
    b = torch.tensor([2.0**-24 * (1 + 2.0**-12), 2.0**-24])
    c = torch.tensor([1.0, 1.0])
    expected = [float(torch.tensor(1 + 2.0**-23)), float(torch.tensor(1 + 2.0**-23))]  # a * b is above the middle
    assert exact._fused(a, b, c).tolist() == expected
    assert exact._fused(torch.tensor(1.0), middle, torch.tensor(1.0)).item() == 1.0  # the middle itself: to even
