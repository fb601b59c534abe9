"""Norms and quantization against the reference, over dtypes, scales and widths; a row's bits do not depend on its company."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.kernels.ops import Ops, Rows, ScaledRows

from .compare import DTYPES, close, in_any_company, on, rows_of

EPS = 1e-5
NAMES = ["rms_norm", "add_rms_norm", "layer_norm", "add_layer_norm"]
REFERENCE = kernels.load("reference")


@pytest.fixture
def ops() -> Ops:
    return kernels.load("cuda")


def normed(ops: Ops, name: str, weight: Tensor, bias: Tensor | None, *, quantize: bool) -> Callable[[Rows, Tensor], tuple[Rows, ...]]:
    """`name` as a function of rows and a residual."""

    def apply(x: Rows, residual: Tensor) -> tuple[Rows, ...]:
        extra = (weight, bias, EPS) if "layer" in name else (weight, EPS)
        if name.startswith("add_"):
            result: tuple[Rows, ...] = getattr(ops, name)(x, residual, *extra, quantize=quantize)
            return result
        return (getattr(ops, name)(x, *extra, quantize=quantize),)

    return apply


def check(ops: Ops, device: torch.device, name: str, size: int, dtype: torch.dtype, *, scaled: bool, quantize: bool, bias: bool) -> None:
    x, residual = rows_of(19, size, dtype, scaled=scaled), rows_of(19, size, dtype, seed=1)
    assert isinstance(residual, Tensor)
    g = torch.Generator().manual_seed(2)
    wide = torch.float32 if size == 100 else dtype  # a norm's weight may be wider than the rows
    weight, shift = (torch.rand(size, generator=g) + 0.5).to(wide), torch.randn(size, generator=g).to(wide) if bias else None
    want = normed(REFERENCE, name, weight, shift, quantize=quantize)(on("cpu", x), residual.clone())
    here = normed(ops, name, on(device, weight), None if shift is None else on(device, shift), quantize=quantize)
    got = here(on(device, x), on(device, residual))
    close(got[0], want[0], dtype)
    if len(want) == 2:
        assert torch.equal(got[1].cpu(), want[1])  # type: ignore[union-attr, arg-type]  # the sum is rounded once
    in_any_company(here, on(device, x), on(device, residual))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("size", "dtype", "scaled", "quantize", "bias"),
    [
        (20, torch.float32, False, False, True),
        (100, torch.bfloat16, False, False, False),
        (576, torch.bfloat16, True, True, True),
        (2049, torch.float16, False, True, False),
    ],
)
def test_norms(ops: Ops, device: torch.device, name: str, size: int, dtype: torch.dtype, scaled: bool, quantize: bool, bias: bool) -> None:
    check(ops, device, name, size, dtype, scaled=scaled, quantize=quantize, bias=bias)


@pytest.mark.grid
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 20, 100, 576, 1024, 4096, 5120, 16384, 20000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norms_of_every_kind(ops: Ops, device: torch.device, name: str, size: int, dtype: torch.dtype) -> None:
    for scaled, quantize, bias in itertools.product((False, True), repeat=3):
        check(ops, device, name, size, dtype, scaled=scaled, quantize=quantize, bias=bias)


def test_more_dimensions_and_no_rows(ops: Ops, device: torch.device) -> None:
    """The last dimension is normed, whatever stands before it."""
    x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0)).to(device)
    weight = torch.rand(64).to(device)
    flat = ops.rms_norm(x.flatten(0, 1), weight, EPS)
    assert torch.equal(ops.rms_norm(x, weight, EPS).flatten(0, 1), flat)  # type: ignore[union-attr, arg-type]
    assert ops.rms_norm(x[:0], weight, EPS).shape == (0, 5, 64)  # type: ignore[union-attr]
    assert ops.quantize(x[0, :0]).values.shape == (0, 64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_quantize(ops: Ops, device: torch.device, dtype: torch.dtype) -> None:
    """To the bit: ties go to the even number, and there is one way to round a quotient."""
    x = rows_of(12, 2500, dtype)
    assert isinstance(x, Tensor)
    x[0] = 0
    x[1] = 1e-42 if dtype == torch.float32 else 0
    x[2, :7] = torch.tensor([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    x[2, 7:] = 0
    x[3, 5], x[4, 6], x[5, 7] = float("nan"), float("inf"), float("-inf")
    got, want = ops.quantize(on(device, x)), REFERENCE.quantize(x)
    assert torch.equal(got.values.cpu(), want.values)
    finite = want.scale.isfinite()
    assert finite.tolist() == [i not in (3, 4, 5) for i in range(12)]
    assert torch.equal(got.scale.cpu()[finite], want.scale[finite])
    assert not got.scale.cpu()[~finite].isfinite().any()
    assert isinstance(got, ScaledRows)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_stays_in_its_row(ops: Ops, device: torch.device) -> None:
    x = torch.randn(6, 100, generator=torch.Generator().manual_seed(0)).to(device)
    weight = torch.ones(100, device=device)
    clean = ops.rms_norm(x, weight, EPS)
    x[2, 3], x[4, 99] = float("nan"), float("inf")
    for quantize in (False, True):
        got = ops.rms_norm(x.clone(), weight, EPS, quantize=quantize)
        plain = got.values.float() * got.scale[:, None] if isinstance(got, ScaledRows) else got
        assert plain.isfinite().all(-1).tolist() == [True, True, False, True, False, True]
        if not quantize:
            assert torch.equal(got[[0, 1, 3, 5]], clean[[0, 1, 3, 5]])  # type: ignore[index]


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize(
    ("size", "group", "weights", "first", "dtype"),
    [
        (60, 20, 60, True, torch.float32),
        (96, 32, 32, False, torch.bfloat16),
        (576, 576, 576, True, torch.bfloat16),
        (100, 100, 0, True, torch.float16),
    ],
)
def test_gated_norms(
    ops: Ops, device: torch.device, size: int, group: int, weights: int, first: bool, dtype: torch.dtype, quantize: bool
) -> None:
    x, wide = rows_of(10, size, dtype), rows_of(10, size + 8, dtype, seed=1)
    assert isinstance(wide, Tensor)
    weight = (torch.rand(weights, generator=torch.Generator().manual_seed(2)) + 0.5).to(dtype) if weights else None

    def apply(x: Rows, gate: Rows, *, ops: Ops = ops, device: torch.device | str = device) -> tuple[Rows, ...]:
        assert isinstance(x, Tensor)
        assert isinstance(gate, Tensor)
        of_device = None if weight is None else on(device, weight)
        return (ops.gated_rms_norm(x, gate[:, 8:], of_device, EPS, group, gate_first=first, quantize=quantize),)

    close(apply(on(device, x), on(device, wide))[0], apply(x, wide, ops=REFERENCE, device="cpu")[0], dtype)
    in_any_company(apply, on(device, x), on(device, wide))
