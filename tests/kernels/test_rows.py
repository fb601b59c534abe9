"""Norms, activations and quantization of every backend: against float64 formulas, and each row the same bits in any company."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.kernels.ops import INT8_ZERO, Ops, Rows, ScaledRows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [20, 64, 100, 576, 1000]
TOLERANCE = {
    # In the tail of gelu 1 + erf is a difference: half an ulp of 1 in it, times x and the gate, is 4e-6, and CPUs round it differently.
    torch.float32: {"rtol": 2e-5, "atol": 4e-6},
    torch.bfloat16: {"rtol": 8e-3, "atol": 1e-5},
    torch.float16: {"rtol": 1e-3, "atol": 4e-6},
}
ROWS = 48
EPS = 1e-5
NAMES = ["rms_norm", "add_rms_norm", "layer_norm", "layer_norm without bias", "add_layer_norm", "quantize"]
#: They have no form without a gate.
CLAMPED, SIGMOID = "clamped_swiglu", "sigmoid"
ACTIVATIONS = ["silu", "gelu", "gelu_tanh", "relu", "relu2"]
NAMES += [f"gated {kind}" for kind in (*ACTIVATIONS, CLAMPED, SIGMOID)] + ACTIVATIONS

#: What an operation gives for rows [first, first + count): its results, one or two.
Operation = Callable[[Rows, Tensor], tuple[Rows, ...]]


@pytest.fixture(params=kernels.usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return kernels.load(request.param)


def operation(ops: Ops, name: str, weight: Tensor, bias: Tensor, *, quantize: bool) -> Operation:
    """`name` as a function of rows and a residual; every call gets copies, since both may be overwritten."""

    def apply(x: Rows, residual: Tensor) -> tuple[Rows, ...]:
        x, residual = ScaledRows(*map(Tensor.clone, x)) if isinstance(x, ScaledRows) else x.clone(), residual.clone()
        match name:
            case "rms_norm":
                return (ops.rms_norm(x, weight, EPS, quantize=quantize),)
            case "add_rms_norm":
                return ops.add_rms_norm(x, residual, weight, EPS, quantize=quantize)
            case "layer_norm":
                return (ops.layer_norm(x, weight, bias, EPS, quantize=quantize),)
            case "layer_norm without bias":
                return (ops.layer_norm(x, weight, None, EPS, quantize=quantize),)
            case "add_layer_norm":
                return ops.add_layer_norm(x, residual, weight, bias, EPS, quantize=quantize)
            case "quantize":
                return (ops.quantize(plain(x)),)
        gated, kind = name.startswith("gated "), name.removeprefix("gated ")
        return ((ops.gated_activation if gated else ops.activation)(x, kind, quantize=quantize),)

    return apply


def plain(x: Rows) -> Tensor:
    return x.values if isinstance(x, ScaledRows) else x


def formula(name: str, x: Rows, residual: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    """The reference's results in float64."""
    rows = x.values.double() * x.scale.double()[:, None] if isinstance(x, ScaledRows) else x.double()
    totals = []
    if name.startswith("add_"):
        # What is normed is the rounded sum, and the sum is the one place where float32 decides the bits.
        factor = x.scale[:, None] if isinstance(x, ScaledRows) else 1.0
        totals = [(plain(x).float() * factor + residual.float()).to(residual.dtype).double()]
        rows = totals[0]
    match name:
        case "rms_norm" | "add_rms_norm":
            result = rows / (rows.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()
        case "quantize":
            result = plain(x).double()
        case _ if name == f"gated {CLAMPED}":
            gate, up = rows.chunk(2, -1)
            gate, up = gate.clamp(max=7), up.clamp(-7, 7)
            result = gate * torch.sigmoid(1.702 * gate) * (up + 1)
        case _ if name == f"gated {SIGMOID}":
            gate, up = rows.chunk(2, -1)
            result = torch.sigmoid(gate) * up
        case _ if name.removeprefix("gated ") in ACTIVATIONS:
            gate, up = rows.chunk(2, -1) if name.startswith("gated ") else (rows, 1.0)
            result = activated(name.removeprefix("gated "), gate) * up
        case _:
            centered = rows - rows.mean(-1, keepdim=True)
            result = centered / (centered.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()
            result += 0 if "without" in name else bias.double()
    return [result, *totals]


def activated(kind: str, x: Tensor) -> Tensor:
    match kind:
        case "silu":
            return x * torch.sigmoid(x)
        case "gelu":
            return 0.5 * x * torch.special.erfc(-x * math.sqrt(0.5))
        case "gelu_tanh":
            return torch.nn.functional.gelu(x, approximate="tanh")
        case "relu2":
            return x.relu().square()
    return x.relu()


class Inputs:
    def __init__(self, size: int, dtype: torch.dtype, *, scaled: bool, wide_weight: bool = False) -> None:
        g = torch.Generator().manual_seed(size)
        values = (torch.randn(ROWS, size, generator=g) * 3 + 0.5).to(dtype)
        self.x: Rows = ScaledRows(values, torch.rand(ROWS, generator=g) + 0.1) if scaled else values
        self.residual = torch.randn(ROWS, size, generator=g).to(dtype)
        weight_dtype = torch.float32 if wide_weight else dtype
        self.weight = (torch.rand(size, generator=g) + 0.5).to(weight_dtype)
        self.bias = torch.randn(size, generator=g).to(weight_dtype)

    def part(self, rows: slice) -> tuple[Rows, Tensor]:
        return take(self.x, rows), self.residual[rows]


def take(x: Rows, rows: slice) -> Rows:
    return ScaledRows(x.values[rows], x.scale[rows]) if isinstance(x, ScaledRows) else x[rows]


def bits(x: Rows) -> list[Tensor]:
    return list(x) if isinstance(x, ScaledRows) else [x]


def same(a: tuple[Rows, ...], b: tuple[Rows, ...]) -> bool:
    pairs = [pair for x, y in zip(a, b, strict=True) for pair in zip(bits(x), bits(y), strict=True)]
    return all(torch.equal(x.nan_to_num(123.0), y.nan_to_num(123.0)) for x, y in pairs)


every = functools.partial(pytest.mark.parametrize, "name", NAMES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every()
def test_against_the_formula(ops: Ops, name: str, dtype: torch.dtype) -> None:
    for size, scaled in itertools.product(SIZES, (False, True)):
        is_the_formula(ops, name, size, dtype, scaled)


def is_the_formula(ops: Ops, name: str, size: int, dtype: torch.dtype, scaled: bool) -> None:
    data = Inputs(size, dtype, scaled=scaled, wide_weight=size == 64)
    expected, *totals = formula(name, data.x, data.residual, data.weight, data.bias)
    scale = expected.abs().amax(-1) / 127

    rounded, *sums = operation(ops, name, data.weight, data.bias, quantize=False)(data.x, data.residual)
    if name != "quantize":
        assert plain(rounded).dtype == dtype
        torch.testing.assert_close(plain(rounded), expected.to(dtype), **TOLERANCE[dtype])
    for total, wanted in zip(sums, totals, strict=True):
        assert plain(total).dtype == dtype
        # A fused multiplication and addition may round the sum the other way.
        torch.testing.assert_close(plain(total), wanted.to(dtype), **TOLERANCE[dtype])

    quantized, *_ = operation(ops, name, data.weight, data.bias, quantize=True)(data.x, data.residual)
    assert isinstance(quantized, ScaledRows)
    assert quantized.values.dtype == torch.uint8
    torch.testing.assert_close(quantized.scale, scale.float(), rtol=1e-3 if sums else 1e-5, atol=0)
    steps = quantized.values.double() - INT8_ZERO
    assert float((steps - expected / scale[:, None]).abs().max()) < (1.01 if sums else 0.501)
    assert (steps.abs().amax(-1) == 127).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every()
def test_a_row_is_the_same_alone_in_company_and_elsewhere(ops: Ops, name: str, dtype: torch.dtype) -> None:
    for size, scaled, quantize in ((20, False, True), (100, True, False), (576, True, True), (576, False, False)):
        data = Inputs(size, dtype, scaled=scaled)
        apply = operation(ops, name, data.weight, data.bias, quantize=quantize)
        whole = apply(data.x, data.residual)
        for first, count in [(0, 1), (17, 1), (0, 16), (16, 32), (5, 3)]:
            rows = slice(first, first + count)
            alone = apply(*data.part(rows))
            assert same(alone, tuple(take(x, rows) for x in whole)), f"{count} rows of {size} from {first}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every()
def test_threads_change_nothing(ops: Ops, name: str, dtype: torch.dtype) -> None:
    data = Inputs(1000, dtype, scaled=True)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            kernels.set_threads(threads)
            results.append([operation(ops, name, data.weight, data.bias, quantize=q)(data.x, data.residual) for q in (False, True)])
    finally:
        kernels.set_threads(before)
    for other in results[1:]:
        assert all(same(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@every()
def test_a_row_that_is_not_finite_harms_itself_alone(ops: Ops, name: str, poison: float) -> None:
    for size, quantize in itertools.product((20, 64), (False, True)):
        harms_itself_alone(ops, name, size, poison, quantize)


def harms_itself_alone(ops: Ops, name: str, size: int, poison: float, quantize: bool) -> None:
    data = Inputs(size, torch.bfloat16, scaled=False)
    apply = operation(ops, name, data.weight, data.bias, quantize=quantize)
    before = apply(data.x, data.residual)
    for place in (0, size - 1):
        poisoned = plain(data.x).clone()
        poisoned[7, place] = poison
        after = apply(poisoned, data.residual)
        for rows in (slice(0, 7), slice(8, None)):
            assert same(tuple(take(x, rows) for x in after), tuple(take(x, rows) for x in before))
        bounded = name[6:] in (CLAMPED, SIGMOID) or (
            name.removeprefix("gated ") in ACTIVATIONS and poison < 0
        )  # activations are 0 at -infinity
        if math.isnan(poison) or not bounded:
            result = after[0]
            seen = result.scale[7] if isinstance(result, ScaledRows) else plain(result)[7]
            assert not torch.isfinite(seen).all()


def test_one_norm_for_many_heads(ops: Ops) -> None:
    x, weight = torch.randn(32, 9, 20), torch.rand(20)
    assert torch.equal(ops.rms_norm(x, weight, EPS), ops.rms_norm(x.view(-1, 20), weight, EPS).view(x.shape))
    strided = torch.cat([x, x], 1)[:, 3:12]
    assert torch.equal(ops.rms_norm(strided, weight, EPS), ops.rms_norm(strided.contiguous(), weight, EPS))


def test_quantized_rows_of_zeros_and_of_next_to_nothing(ops: Ops) -> None:
    x = torch.zeros(16, 70)
    x[1] = 1e-44
    x[2, 3] = 1e-30
    quantized = ops.quantize(x)
    assert quantized.scale[:2].tolist() == [0, 0]
    assert (quantized.values[:2] == INT8_ZERO).all()
    assert quantized.values[2, 3] == INT8_ZERO + 127
    assert (ops.rms_norm(x, torch.ones(70), EPS, quantize=True).values[0] == INT8_ZERO).all()


def test_halves_are_rounded_to_even(ops: Ops) -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]]).repeat(16, 1)
    quantized = ops.quantize(x)
    assert (quantized.values[5].int() - INT8_ZERO).tolist() == [127, 0, 2, 2, 0, -2, -2, 126]


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_over_their_whole_range(ops: Ops, kind: str) -> None:
    gate = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e4, -200.0, -90.0, -1e-30, 0.0, 1e-30, 90.0, 200.0, 1e4])])
    x = torch.cat([gate, torch.ones_like(gate)]).repeat(16, 1)
    expected = activated(kind, gate.double()).repeat(16, 1)
    gated, alone = ops.gated_activation(x, kind), ops.activation(gate.repeat(16, 1), kind)
    torch.testing.assert_close(gated.double(), expected, rtol=1e-6, atol=2e-6)
    assert torch.equal(alone, gated)
    narrow, rounded = x.bfloat16(), gate.bfloat16().double()
    torch.testing.assert_close(ops.gated_activation(narrow, kind).double(), activated(kind, rounded).repeat(16, 1), rtol=1e-2, atol=1e-3)
