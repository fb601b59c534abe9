"""Weights of 8-bit floats: what they mean, how rows and weights are rounded to such, the reference's products, and who refuses them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from infer.core.quant.packed import tensors_of, with_tensors
from infer.kernels import load
from infer.kernels.fp8 import Fp8Weight, malformed, rounded, rounded_rows
from infer.kernels.ops import Ops

#: (out, in, block): one scale, one a row, blocks that divide and blocks that do not, groups of a row.
SHAPES = [
    (96, 64, (96, 64)),
    (48, 160, (1, 160)),
    (33, 100, (1, 200)),
    (256, 256, (128, 128)),
    (200, 300, (128, 128)),
    (70, 96, (8, 32)),
    (5, 130, (1, 32)),
]


@pytest.fixture
def ops() -> Ops:
    return load("reference")


def made(out: int, size: int, block: tuple[int, int], dtype: torch.dtype = torch.float8_e4m3fn) -> Fp8Weight:
    g = torch.Generator().manual_seed(size + out)
    values = (torch.randn(out, size, generator=g) * 50).clamp(-448, 448).to(dtype)
    return Fp8Weight(values, torch.rand(-(-out // block[0]), -(-size // block[1]), generator=g) * 1e-2 + 1e-4, block)


def rows_of(size: int, dtype: torch.dtype, count: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(size)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize(("out", "size", "block"), SHAPES)
def test_a_weight_means_what_its_definition_says(out: int, size: int, block: tuple[int, int], dtype: torch.dtype) -> None:
    weight = made(out, size, block, dtype)
    widened = weight.widened()
    for row, column in ((0, 0), (out - 1, size - 1), (out // 2, size // 3), (out - 1, 0), (1, size - 1)):
        want = weight.values[row, column].float() * weight.scale[row // block[0], column // block[1]]
        assert widened[row, column] == want
    if weight.has_row_scales:
        assert torch.equal(weight.values.float() * weight.row_scales()[:, None], widened)


@pytest.mark.parametrize(("out", "size", "block"), SHAPES)
def test_plain_rows_are_multiplied_by_the_widened_weight(ops: Ops, out: int, size: int, block: tuple[int, int]) -> None:
    weight = made(out, size, block)
    for dtype, tolerance in ((torch.float32, 3e-6), (torch.bfloat16, 5e-3)):
        x, bias = rows_of(size, dtype, 20), rows_of(out, dtype, 1)[0]
        got = ops.linear_fp8(x, ops.pack_fp8(weight, dtype, quantize_input=False), bias)
        want = x.double() @ weight.widened().to(dtype).double().T + bias.double()
        assert got.dtype == dtype
        assert (got - want).norm() <= tolerance * want.norm()


def test_quantized_rows_are_near_and_each_by_itself(ops: Ops) -> None:
    weight = made(48, 160, (1, 160))
    packed, x = ops.pack_fp8(weight, torch.float32, quantize_input=True), rows_of(160, torch.float32, 40)
    whole = ops.linear_fp8(x, packed, None)
    true = x.double() @ weight.widened().double().T
    assert 1e-3 < (whole - true).norm() / true.norm() < 0.04
    assert torch.equal(ops.linear_fp8(x[3:4], packed, None), whole[3:4])


def test_rows_are_rounded_to_the_nearest() -> None:
    x = torch.tensor([[448.0, 1.0, -17.0, 0.3, 2.0**-9], [0.0, 0.0, 0.0, 0.0, 0.0], [1e-30, -3e-30, 2e-30, 0.0, 1e-31]])
    values, scale = rounded_rows(x)
    assert scale[0] == 1
    assert values[0].float().tolist() == [448.0, 1.0, -16.0, 0.3125, 2.0**-9]
    assert scale[1] == 0
    assert not values[1].float().any()
    torch.testing.assert_close(values[2].float() * scale[2], x[2], rtol=0.07, atol=0)
    bad, factors = rounded_rows(torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0]]))
    assert not bad.float().any()
    assert not factors.isfinite().any()


def test_a_weight_is_rounded_by_rows() -> None:
    plain = torch.randn(70, 3000, generator=torch.Generator().manual_seed(1))
    plain[5] = 0
    weight = rounded(plain.bfloat16())
    assert malformed(weight) == ""
    assert torch.equal(weight.row_scales(), plain.bfloat16().float().abs().amax(1) / 448)
    difference = (weight.widened() - plain.bfloat16().float()).abs()
    assert not difference[5].any()
    assert (difference <= plain.abs() / 16 + weight.row_scales()[:, None] * 2**-9).all()  # 3 bits after the point, then subnormal


def test_a_packed_weight_works_from_other_tensors(ops: Ops) -> None:
    packed, x = ops.pack_fp8(made(48, 160, (1, 160)), torch.float32, quantize_input=True), rows_of(160, torch.float32, 3)
    before = ops.linear_fp8(x, packed, None)
    moved = with_tensors(packed, [tensor.clone() for tensor in tensors_of(packed)])
    for tensor in tensors_of(packed):
        tensor.zero_()
    assert torch.equal(ops.linear_fp8(x, moved, None), before)


def test_parts_that_do_not_fit_are_refused(ops: Ops) -> None:
    good = made(96, 64, (32, 32))
    for message, weight in {
        r"scale is torch.float32 \[2, 2\]; float32 \[3, 2\] is right": good._replace(scale=good.scale[:2]),
        "scale is torch.float64": good._replace(scale=good.scale.double()),
        "values are of torch.float16": good._replace(values=good.values.half()),
    }.items():
        with pytest.raises(ValueError, match=message):
            ops.pack_fp8(weight, torch.float32, quantize_input=False)
    with pytest.raises(ValueError, match="one scale an output feature"):
        ops.pack_fp8(good, torch.float32, quantize_input=True)


def test_cpus_have_none() -> None:
    pytest.importorskip("infer.kernels.cpu.fp8")
    from infer.kernels.cpu.fp8 import fp8_refusal

    for quantize in (True, False):
        assert "no CPU kernels" in fp8_refusal((64, 64), (1, 64), torch.bfloat16, quantize_input=quantize)
