"""Weights of 8-bit floats on a GPU: our own product for any block of scales, the library's for scales by rows, and their refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from infer import kernels
from infer.core.quant.packed import tensors_of
from infer.kernels.cuda import fp8
from infer.kernels.fp8 import Fp8Weight, rounded_rows
from infer.kernels.ops import Ops
from infer.kernels.reference import fp8 as exact

from ...core.weights.formats.folders import write
from ...core.weights.formats.packers import PACKERS
from ..test_fp8 import SHAPES, made, rows_of
from .test_model import PROMPTS, answers, on_triton

__all__ = ["on_triton"]

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}
load = kernels.load


@pytest.fixture
def ops() -> Ops:
    return load("cuda")


def there(weight: Fp8Weight, device: torch.device) -> Fp8Weight:
    return weight._replace(values=weight.values.to(device), scale=weight.scale.to(device))


def check(ops: Ops, device: torch.device, weight: Fp8Weight, dtype: torch.dtype, count: int = 19) -> None:
    x, bias = rows_of(weight.values.shape[1], dtype, count), rows_of(weight.values.shape[0], dtype, 1)[0]
    packed = ops.pack_fp8(there(weight, device), dtype, quantize_input=False)
    got = ops.linear_fp8(x.to(device), packed, bias.to(device)).cpu()
    want = exact.linear_fp8(x, exact.pack_fp8(weight, dtype, quantize_input=False), bias)
    assert got.dtype == want.dtype
    assert (got.double() - want.double()).norm() <= TOLERANCE[dtype] * want.double().norm()


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize(("out", "size", "block"), SHAPES)
def test_our_products_are_the_references(
    ops: Ops, device: torch.device, out: int, size: int, block: tuple[int, int], kind: torch.dtype
) -> None:
    for dtype in TOLERANCE:
        check(ops, device, made(out, size, block, kind), dtype)


@pytest.mark.parametrize("count", [1, 70])
def test_e4m3_by_its_bits_and_in_pieces(ops: Ops, device: torch.device, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As GPUs do it that cannot convert it."""
    monkeypatch.setattr("infer.kernels.cuda.narrow.converts_e4m3", lambda device: False)
    check(ops, device, made(40, 2300, (128, 128)), torch.bfloat16, count)


def test_rows_are_the_same_in_any_company(ops: Ops, device: torch.device) -> None:
    ops.deterministic = True
    packed = ops.pack_fp8(there(made(40, 2300, (128, 128)), device), torch.bfloat16, quantize_input=False)
    x = rows_of(2300, torch.bfloat16, 80).to(device)
    whole = ops.linear_fp8(x, packed, None)
    for first, count in ((0, 1), (3, 13), (16, 64)):
        assert torch.equal(ops.linear_fp8(x[first : first + count].clone(), packed, None), whole[first : first + count])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rows_are_rounded_as_the_reference_does(device: torch.device, dtype: torch.dtype) -> None:
    x = rows_of(3000, dtype, 20) * 3
    x[3], x[5, 7], x[6, 8] = 0, float("nan"), float("inf")
    values, scale = fp8.quantize_fp8(x.to(device))
    wanted, factors = rounded_rows(x)
    torch.testing.assert_close(scale.cpu()[:5], factors[:5], rtol=2e-7, atol=0)
    assert not scale[5:7].isfinite().any()
    same = values.cpu().view(torch.uint8) == wanted.view(torch.uint8)
    assert not values[5:7].float().any()
    assert torch.cat([same[:5], same[7:]]).float().mean() > 0.999
    torch.testing.assert_close(values.cpu().float(), wanted.float(), rtol=0.13, atol=2**-9)


@pytest.mark.parametrize(("out", "size", "block"), [(96, 64, (96, 64)), (48, 160, (1, 160))])
def test_the_librarys_products_are_the_references(ops: Ops, device: torch.device, out: int, size: int, block: tuple[int, int]) -> None:
    weight = made(out, size, block)
    if why := ops.fp8_refusal((out, size), block, torch.bfloat16, quantize_input=True):
        pytest.skip(why)
    x, bias = rows_of(size, torch.bfloat16, 32), rows_of(out, torch.bfloat16, 1)[0]
    packed = ops.pack_fp8(there(weight, device), torch.bfloat16, quantize_input=True)
    assert sum(tensor.nbytes for tensor in tensors_of(packed)) == out * (size + 4)
    for b in (None, bias):
        got = ops.linear_fp8(x.to(device), packed, None if b is None else b.to(device)).cpu()
        want = exact.linear_fp8(x, exact.pack_fp8(weight, torch.bfloat16, quantize_input=True), b)
        assert got.dtype == torch.bfloat16
        assert (got.double() - want.double()).norm() <= 6e-3 * want.double().norm()
    assert ops.linear_fp8(x[:0].to(device), packed, None).shape == (0, out)


def test_where_rows_are_not_quantized(ops: Ops, monkeypatch: pytest.MonkeyPatch) -> None:
    def why(shape: tuple[int, int] = (32, 64), block: tuple[int, int] = (1, 64), dtype: torch.dtype = torch.bfloat16) -> str:
        return ops.fp8_refusal(shape, block, dtype, quantize_input=True)

    monkeypatch.setattr(fp8, "_lacks_products", lambda: "")
    assert why() == ""
    assert "are bfloat16" in why(dtype=torch.float16)
    assert "not multiples of 16" in why((33, 64))
    assert "one scale an output feature" in why(block=(1, 32))
    monkeypatch.setattr(fp8, "_lacks_products", lambda: "this GPU has none")
    assert why() == "this GPU has none"
    ops.deterministic = True
    assert "--deterministic" in why()
    assert ops.fp8_refusal((33, 65), (1, 32), torch.float16, quantize_input=False) == ""
    with pytest.raises(ValueError, match="--deterministic"):
        ops.pack_fp8(made(32, 64, (1, 64)), torch.bfloat16, quantize_input=True)


@pytest.mark.parametrize("form", ["fp8", "fp8-blocks", "compressed-mxfp8", ""])
def test_a_model_says_what_the_reference_says(tmp_path: Path, tiny_llama: Path, on_triton: str, form: str) -> None:
    """Checkpoints, and weights rounded on the fly."""
    folder, more = (write(tmp_path, PACKERS[form]).folder, {}) if form else (tiny_llama, {"quantization": "fp8"})
    prompts = [[i % 200 for i in ids] for ids in PROMPTS]
    with pytest.MonkeyPatch.context() as plain:
        plain.setattr(kernels, "load", lambda name: load("reference"))
        expected = answers(folder, "cpu", prompts, activation_dtype="model", **more)
    for (tokens, logprobs), (wanted, values) in zip(
        answers(folder, on_triton, prompts, activation_dtype="model", **more), expected, strict=True
    ):
        assert tokens == wanted
        assert logprobs == pytest.approx(values, abs=1e-3)
