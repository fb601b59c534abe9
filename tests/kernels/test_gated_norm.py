"""RMSNorm with a gate in every backend: against the formula, in any company, plain and quantized."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.kernels.ops import INT8_ZERO, Ops, ScaledRows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: (2e-5, 4e-6), torch.bfloat16: (8e-3, 1e-5), torch.float16: (1e-3, 4e-6)}
EPS = 1e-5
#: Features, features of a group, numbers of the weight, and whether the gate comes first.
CASES = [(64, 64, 64, True), (60, 20, 60, True), (96, 32, 32, False), (576, 576, 576, False), (100, 100, 0, True)]


@pytest.fixture(params=kernels.usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return kernels.load(request.param)


def formula(x: Tensor, gate: Tensor, weight: Tensor | None, group: int, *, gate_first: bool) -> Tensor:
    x, factor = x.double(), torch.nn.functional.silu(gate.double())
    if weight is None:
        return x * factor
    x = (x * factor if gate_first else x).unflatten(1, (-1, group))
    x = (x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double().view(-1, group)).flatten(1)
    return x if gate_first else x * factor


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "group", "weights", "first"), CASES)
def test_gated_rms_norm(ops: Ops, size: int, group: int, weights: int, first: bool, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(size)
    x, projected = torch.randn(48, size, generator=g).to(dtype), (2 * torch.randn(48, 2 * size, generator=g)).to(dtype)
    gate = projected[:, 3 : 3 + size]
    weight = (torch.rand(weights, generator=g) + 0.5).to(torch.float32 if size == 96 else dtype) if weights else None
    expected = formula(x, gate, weight, group, gate_first=first)

    got = ops.gated_rms_norm(x, gate, weight, EPS, group, gate_first=first)
    assert isinstance(got, Tensor)
    assert got.dtype == dtype
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(got, expected.to(dtype), rtol=rtol, atol=atol)

    quantized = ops.gated_rms_norm(x, gate, weight, EPS, group, gate_first=first, quantize=True)
    assert isinstance(quantized, ScaledRows)
    scale = expected.abs().amax(-1) / 127
    torch.testing.assert_close(quantized.scale, scale.float(), rtol=1e-5, atol=0)
    assert float((quantized.values.double() - INT8_ZERO - expected / scale[:, None]).abs().max()) < 0.501

    for rows in (slice(0, 1), slice(17, 20), slice(16, 48)):
        assert torch.equal(ops.gated_rms_norm(x[rows], gate[rows], weight, EPS, group, gate_first=first), got[rows])
        alone = ops.gated_rms_norm(x[rows], gate[rows], weight, EPS, group, gate_first=first, quantize=True)
        assert isinstance(alone, ScaledRows)
        assert torch.equal(alone.values, quantized.values[rows])
        assert torch.equal(alone.scale, quantized.scale[rows])


def test_a_row_that_is_not_finite_harms_itself_alone(ops: Ops) -> None:
    x, gate, weight = torch.randn(48, 60), torch.randn(48, 60), torch.rand(60)
    clean = ops.gated_rms_norm(x, gate, weight, EPS, 20, gate_first=True)
    x[7, 33] = float("nan")
    got = ops.gated_rms_norm(x, gate, weight, EPS, 20, gate_first=True)
    assert isinstance(clean, Tensor)
    assert isinstance(got, Tensor)
    assert not got[7].isfinite().all()
    others = [row for row in range(48) if row != 7]
    assert torch.equal(got[others], clean[others])
