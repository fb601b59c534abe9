"""Activations against the reference: kinds, gated or not, dtypes, scales, quantized results."""

from __future__ import annotations

import itertools

import pytest
import torch

from infer import kernels
from infer.kernels.ops import Ops, Rows, ScaledRows

from .compare import DTYPES, close, in_any_company, on, rows_of

pytestmark = pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid:RuntimeWarning")
KINDS = ["silu", "gelu", "gelu_tanh", "relu", "relu2"]
REFERENCE = kernels.load("reference")


@pytest.fixture
def ops() -> Ops:
    return kernels.load("cuda")


def check(ops: Ops, device: torch.device, kind: str, size: int, dtype: torch.dtype, *, gated: bool, scaled: bool, quantize: bool) -> None:
    name = "gated_activation" if gated else "activation"
    x = rows_of(10, 2 * size if gated else size, dtype, scaled=scaled)

    def apply(x: Rows) -> tuple[Rows, ...]:
        return (getattr(ops, name)(x, kind, quantize=quantize),)

    close(apply(on(device, x))[0], getattr(REFERENCE, name)(x, kind, quantize=quantize), dtype)
    in_any_company(apply, on(device, x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "dtype", "scaled", "quantize"),
    [(50, torch.float32, False, False), (1500, torch.bfloat16, True, True), (1024, torch.float16, True, False)],
)
@pytest.mark.parametrize("gated", [False, True])
def test_activations(
    ops: Ops, device: torch.device, kind: str, size: int, dtype: torch.dtype, scaled: bool, quantize: bool, gated: bool
) -> None:
    if gated and kind.startswith("relu"):
        pytest.skip("no model has one")
    check(ops, device, kind, size, dtype, gated=gated, scaled=scaled, quantize=quantize)


def test_sigmoid(ops: Ops, device: torch.device) -> None:
    """It has no form without a gate either."""
    for size, dtype, scaled, quantize in ((50, torch.float32, False, False), (200, torch.bfloat16, True, True)):
        check(ops, device, "sigmoid", size, dtype, gated=True, scaled=scaled, quantize=quantize)


def test_clamped_swiglu(ops: Ops, device: torch.device) -> None:
    """It has no form without a gate; rows of 3 times the normal spread go beyond both bounds."""
    for size, dtype, scaled, quantize in ((50, torch.float32, False, False), (200, torch.bfloat16, True, True)):
        check(ops, device, "clamped_swiglu", size, dtype, gated=True, scaled=scaled, quantize=quantize)
    x = torch.tensor([[100.0, -100.0, 1.0, 100.0, -9.0, -1.0, 8.0, 20.0]])
    torch.testing.assert_close(
        ops.gated_activation(x.to(device), "clamped_swiglu"), REFERENCE.gated_activation(x, "clamped_swiglu").to(device)
    )


@pytest.mark.grid
@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("size", [1, 17, 1024, 1025, 8960, 28672])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_activations_of_every_kind(ops: Ops, device: torch.device, kind: str, size: int, dtype: torch.dtype) -> None:
    for gated, scaled, quantize in itertools.product((False, True), repeat=3):
        check(ops, device, kind, size, dtype, gated=gated, scaled=scaled, quantize=quantize)


@pytest.mark.parametrize("kind", KINDS)
def test_far_ends(ops: Ops, device: torch.device, kind: str) -> None:
    """No overflow on the way: large numbers stay, very negative ones vanish, NaN and infinity are seen."""
    x = torch.tensor([[-1e30, -200.0, -20.0, -0.0, 0.0, 20.0, 200.0, 1e18]])
    got = ops.activation(x.to(device), kind)
    assert isinstance(got, torch.Tensor)
    assert got.isfinite().all()
    kept = torch.tensor([0.0, 0.0, 20.0, 200.0, 1e18])
    torch.testing.assert_close(got.cpu()[0, 3:], kept.square() if kind == "relu2" else kept, rtol=1e-6, atol=0)
    assert (got.cpu()[0, :3].abs() < 1e-6).all()
    bad = torch.ones(3, 40)
    bad[0, 3], bad[1, 39] = float("nan"), float("inf")
    for quantize in (False, True):
        result = ops.activation(bad.to(device), kind, quantize=quantize)
        plain = result.values.float() * result.scale[:, None] if isinstance(result, ScaledRows) else result
        assert plain.isfinite().all(-1).tolist() == [False, False, True]


def test_no_rows(ops: Ops, device: torch.device) -> None:
    assert ops.gated_activation(torch.empty(0, 64, device=device), "silu").shape == (0, 32)  # type: ignore[union-attr]
