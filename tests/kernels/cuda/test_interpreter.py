"""Triton's interpreter as the tests of this folder suppose it, which `interpreter.py` sees to."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from .conftest import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="a GPU multiplies by itself")
ROWS, DEPTH, OUTPUTS = 32, 64, 16


@triton.jit
def _product(out, x, weight, ROWS: tl.constexpr, DEPTH: tl.constexpr, OUTPUTS: tl.constexpr):
    row, k, output = tl.arange(0, ROWS)[:, None], tl.arange(0, DEPTH), tl.arange(0, OUTPUTS)[None, :]
    a = tl.load(x + row * DEPTH + k[None, :])
    b = tl.load(weight + k[:, None] * OUTPUTS + output)
    tl.store(out + row * OUTPUTS + output, tl.dot(a, b, input_precision="ieee"))


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    out = torch.empty(ROWS, OUTPUTS)
    _product[(1,)](out, x, weight, ROWS=ROWS, DEPTH=DEPTH, OUTPUTS=OUTPUTS)
    return out


def test_a_row_of_a_product_is_the_same_in_any_place_of_a_tile(device: torch.device) -> None:
    """The sum in order, whatever this machine's BLAS does; a kernel whose rows differ is then to blame itself."""
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(ROWS, DEPTH, generator=g), torch.randn(DEPTH, OUTPUTS, generator=g)
    whole = product(x, weight)
    in_order = torch.zeros(ROWS, OUTPUTS)
    for k in range(DEPTH):
        in_order += x[:, k : k + 1] * weight[k]
    assert torch.equal(whole, in_order)
    assert torch.equal(product(x.roll(5, 0), weight), whole.roll(5, 0))
