"""A scheme's packed weight can be handed out, counted and exchanged, whatever form the backend gives it."""

from __future__ import annotations

import pytest
import torch

from infer.core.quant import SCHEMES
from infer.core.quant.base import LinearMethod
from infer.core.quant.int4 import Int4
from infer.core.quant.plain import Plain
from infer.core.quant.stored import Stored
from infer.kernels import load, usable
from infer.kernels.ops import Ops, ScaledRows

METHODS: list[type[LinearMethod]] = [Plain, *SCHEMES.values()]


def made(scheme: type[LinearMethod], ops: Ops, dtype: torch.dtype) -> LinearMethod:
    return scheme(ops, dtype, rows="auto") if issubclass(scheme, Stored) else scheme(ops)


def stored(scheme: type[LinearMethod], backend: str, weight: torch.Tensor) -> LinearMethod:
    ops = load(backend)
    if why := scheme.refusal(ops):
        pytest.skip(why)
    method = made(scheme, ops, weight.dtype)
    method.store(weight.clone())
    return method


def result(method: LinearMethod, x: torch.Tensor) -> torch.Tensor:
    rows = method.apply(x, None)
    return rows.values * rows.scale[:, None] if isinstance(rows, ScaledRows) else rows


@pytest.mark.parametrize("scheme", METHODS)
@pytest.mark.parametrize("backend", usable("cpu"))
def test_a_weight_works_from_other_memory(scheme: type[LinearMethod], backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, other, x = (torch.randn(size, generator=generator) for size in ((96, 64), (96, 64), (16, 64)))
    method = stored(scheme, backend, weight)
    want = result(method, x)
    tensors = method.tensors()
    if any(tensor.is_mkldnn for tensor in tensors):
        pytest.skip("the layout is the library's own")
    copies = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        tensor.fill_(3)  # what it held is not looked at any more
    assert not torch.equal(result(method, x), want)
    method.replace(copies)
    assert [t.data_ptr() for t in method.tensors()] == [t.data_ptr() for t in copies]
    assert torch.equal(result(method, x), want)
    second = stored(scheme, backend, other)
    for mine, its in zip(method.tensors(), second.tensors(), strict=True):
        mine.copy_(its)
    assert torch.equal(result(method, x), result(second, x))


@pytest.mark.parametrize("scheme", [scheme for scheme in METHODS if scheme is not Int4])  # the reference packs no codes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_known_before_there_is_a_weight(scheme: type[LinearMethod], dtype: torch.dtype) -> None:
    method = stored(scheme, "reference", torch.ones(40, 24, dtype=dtype))
    found = sum(t.nbytes for t in method.tensors())
    assert found == made(scheme, load("reference"), dtype).num_bytes(40, 24, dtype)


def test_a_weight_goes_where_it_is_told() -> None:
    method = Plain(load("reference"))
    seen: list[torch.Tensor] = []

    def place(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        seen.extend(tensors)
        return [tensor.clone() for tensor in tensors]

    method.place = place
    weight = torch.ones(4, 4)
    method.store(weight)
    assert [t.data_ptr() for t in seen] == [weight.data_ptr()]
    assert method.tensors()[0].data_ptr() != weight.data_ptr()
    with pytest.raises(AssertionError, match="more tensors than there are places"):
        method.replace([weight, weight])
