"""The short convolution against its formula and the reference, and to the same bits however steps cut sequences."""

from __future__ import annotations

import pytest
import torch

from infer import kernels

from ..convolutions import Convolution
from .compare import TOLERANCE


@pytest.mark.parametrize(
    ("size", "width", "dtype"), [(20, 3, torch.float32), (33, 4, torch.bfloat16), (1040, 4, torch.float16), (48, 1, torch.float32)], ids=str
)
def test_the_reference_and_every_cut(device: torch.device, size: int, width: int, dtype: torch.dtype) -> None:
    convolution = Convolution.of(size, width, dtype, bias=width == 4, activation="silu" if width == 4 else None)
    ops = kernels.load("cuda")
    whole = convolution.run(ops, device, 100)
    wanted = convolution.run(kernels.load("reference"), torch.device("cpu"), 100)
    for got, want in zip(whole, wanted, strict=True):
        torch.testing.assert_close(got, want, **TOLERANCE[dtype])
    assert all(map(torch.equal, convolution.run(ops, device, 3, strided=True), whole))
    assert torch.equal(convolution.run(ops, device, 4, only=[3])[0], whole[3])
