"""Weights in groups on a GPU: the reference's products in every form, few bytes, and each row the same bits in any company where asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.core.quant.packed import tensors_of, with_tensors
from infer.kernels.cuda import grouped
from infer.kernels.grouped import GroupedWeight
from infer.kernels.ops import Ops
from infer.kernels.reference import grouped as exact

from ...core.weights.formats.folders import write
from ...core.weights.formats.packers import PACKERS
from ..test_grouped import FORMS, SHAPES, made, rows_of
from .test_model import PROMPTS, answers, on_triton

__all__ = ["on_triton"]

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}
#: More than two pieces of input features, the last one short; fewer outputs than keep a device busy.
DEEP = (40, 2 * grouped.PIECE + 160, 32)


@pytest.fixture(params=[False, True], ids=["fast", "deterministic"])
def ops(request: pytest.FixtureRequest) -> Ops:
    made = kernels.load("cuda")
    made.deterministic = request.param
    return made


def there(weight: GroupedWeight, device: torch.device) -> GroupedWeight:
    return with_tensors(weight, [tensor.to(device) for tensor in tensors_of(weight)])


def check(ops: Ops, device: torch.device, weight: GroupedWeight, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product, which is the reference's."""
    packed = ops.pack_grouped(there(weight, device), x.dtype, quantize_input=False)
    got = ops.linear_grouped(x.to(device), packed, None if bias is None else bias.to(device)).cpu()
    want = exact.linear_grouped(x, exact.pack_grouped(weight, x.dtype, quantize_input=False), bias)
    assert got.dtype == want.dtype
    assert (got.double() - want.double()).norm() <= TOLERANCE[x.dtype] * want.double().norm()
    return got


@pytest.mark.parametrize(
    ("form", "out", "size", "group"),
    [
        pytest.param(form, *shape, marks=() if (i + 3 * j) % 4 == 0 else pytest.mark.grid)
        for i, form in enumerate(FORMS)
        for j, shape in enumerate(SHAPES)
    ],
)
def test_products_are_the_references(ops: Ops, device: torch.device, form: str, out: int, size: int, group: int) -> None:
    weight = made(form, out, size, group)
    for dtype in (torch.bfloat16,) if ops.deterministic else TOLERANCE:
        check(ops, device, weight, rows_of(size, dtype, 19), rows_of(out, dtype, 1)[0] if dtype != torch.float16 else None)


@pytest.mark.parametrize("form", ["GPTQ", "Q4_K", "int8"])
@pytest.mark.parametrize("count", [1, 16, 17, 64, 65, 150])
def test_pieces_of_a_long_row(ops: Ops, device: torch.device, form: str, count: int) -> None:
    check(ops, device, made(form, *DEEP), rows_of(DEEP[1], torch.bfloat16, count), rows_of(DEEP[0], torch.bfloat16, 1)[0])


@pytest.mark.parametrize("form", ["GPTQ", "Q4_K", "IQ4_NL", "int8 with zeros"])
def test_rows_are_the_same_in_any_company(device: torch.device, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few rows pieces have programs of their own, of many one program adds them up."""
    ops = kernels.load("cuda")
    ops.deterministic = True
    packed = ops.pack_grouped(there(made(form, *DEEP), device), torch.bfloat16, quantize_input=False)
    x = rows_of(DEEP[1], torch.bfloat16, 150).to(device)
    whole = ops.linear_grouped(x, packed, None)
    for first, count in ((0, 1), (3, 13), (16, 64), (70, 80)):
        assert torch.equal(ops.linear_grouped(x[first : first + count].clone(), packed, None), whole[first : first + count])
    monkeypatch.setattr(grouped, "ENOUGH_PROGRAMS", 1)
    assert torch.equal(ops.linear_grouped(x, packed, None), whole)


def test_a_step_has_pieces_only_where_there_are_few_tiles() -> None:
    assert grouped.pieces_of(128, 128, 600, deterministic=False) == (128, 1, False)
    assert grouped.pieces_of(128, 128, 64, deterministic=False) == (16, 8, True)
    assert grouped.pieces_of(8, 128, 64, deterministic=False) == (8, 1, False)
    assert grouped.pieces_of(128, 128, 64, deterministic=True) == (8, 16, True)
    assert grouped.pieces_of(128, 128, 600, deterministic=True) == (8, 16, False)


@pytest.mark.parametrize("form", FORMS)
def test_codes_and_factors_take_what_they_did(form: str) -> None:
    """4 bits stay 4 bits; chunks are full here, so nothing is padded."""
    weight = made(form, 48, 256, 32)
    packed = grouped.pack_grouped(weight, torch.bfloat16, quantize_input=False)
    assert packed.codes.nbytes == 48 * 256 * weight.bits // 8
    factors = [*weight.scale[:2], *(weight.minimum or ())[:2], weight.levels, packed.zero]
    kept = sum(tensor.nbytes for tensor in tensors_of(packed))
    assert kept == packed.codes.nbytes + sum(tensor.nbytes for tensor in factors if isinstance(tensor, Tensor))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("form", ["Q4_0", "Q4_K", "Q6_K"])
def test_a_bad_row_stays_alone(ops: Ops, device: torch.device, form: str) -> None:
    packed = ops.pack_grouped(there(made(form, 96, 256, 32), device), torch.float16, quantize_input=False)
    x = rows_of(256, torch.float16, 16).to(device)
    x[7] = 0
    clean = ops.linear_grouped(x, packed, None)
    assert not clean[7].any()
    x[3, 5], x[9, 200], x[11, 31] = float("nan"), float("inf"), float("-inf")
    got = ops.linear_grouped(x, packed, None)
    assert not got[[3, 9, 11]].isfinite().any()
    others = [i for i in range(len(x)) if i not in (3, 9, 11)]
    assert torch.equal(got[others], clean[others])


def test_no_rows_and_rows_apart(ops: Ops, device: torch.device) -> None:
    packed = ops.pack_grouped(there(made("GPTQ", 96, 64, 32), device), torch.float16, quantize_input=False)
    assert ops.linear_grouped(torch.empty(0, 64, dtype=torch.float16, device=device), packed, None).shape == (0, 96)
    x = rows_of(100, torch.float16, 20).to(device)[:, 7:71]
    assert torch.equal(ops.linear_grouped(x, packed, None), ops.linear_grouped(x.contiguous(), packed, None))


def test_quantized_rows_are_refused(ops: Ops) -> None:
    assert "in the model's dtype" in ops.grouped_refusal(64, 32, quantize_input=True)
    with pytest.raises(ValueError, match="in the model's dtype"):
        ops.pack_grouped(made("GPTQ", 8, 64, 32), torch.float16, quantize_input=True)
    with pytest.raises(ValueError, match="codes of 3 bits"):
        ops.pack_grouped(made("GPTQ", 8, 64, 32)._replace(bits=3), torch.float16, quantize_input=False)


@pytest.mark.parametrize("form", ["gptq-4", "awq", "w8a8"])
def test_a_checkpoint_says_what_the_reference_says(tmp_path: Path, on_triton: str, form: str) -> None:
    folder = write(tmp_path, PACKERS[form]).folder
    prompts = [[i % 200 for i in ids] for ids in PROMPTS]
    with pytest.MonkeyPatch.context() as plain:
        plain.setattr(kernels, "load", lambda name: plain_load("reference"))
        expected = answers(folder, "cpu", prompts)
    for (tokens, logprobs), (wanted, values) in zip(answers(folder, on_triton, prompts), expected, strict=True):
        assert tokens == wanted
        assert logprobs == pytest.approx(values, abs=1e-3)


plain_load = kernels.load
