"""The short convolution of the backends that run on a CPU: by its formula, and to the same bits however steps cut sequences."""

from __future__ import annotations

import pytest
import torch

from infer import kernels

from .convolutions import Convolution

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: (2e-5, 2e-6), torch.bfloat16: (8e-3, 1e-4), torch.float16: (1e-3, 1e-5)}
SHAPES = [
    (1, 2, False, torch.float32),
    (20, 3, False, torch.bfloat16),
    (33, 4, True, torch.float16),
    (1040, 4, True, torch.float32),
    (48, 1, True, torch.bfloat16),
]


@pytest.mark.parametrize("backend", kernels.usable("cpu"))
@pytest.mark.parametrize(("size", "width", "bias", "dtype"), SHAPES, ids=str)
def test_the_formula_and_every_cut(backend: str, size: int, width: int, bias: bool, dtype: torch.dtype) -> None:
    convolution = Convolution.of(size, width, dtype, bias=bias, activation="silu" if bias else None)
    ops = kernels.load(backend)
    rtol, atol = TOLERANCE[dtype]
    whole = convolution.run(ops, CPU, 100)
    for got, want in zip(whole, convolution.formula(), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=rtol, atol=atol)
    for piece in (1, 2, 5):
        assert all(map(torch.equal, convolution.run(ops, CPU, piece, strided=piece == 2), whole))
    assert torch.equal(convolution.run(ops, CPU, 3, only=[3])[0], whole[3])
