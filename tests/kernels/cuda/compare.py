"""Helpers for tests of row-wise kernels: rows to try, and how near to the reference a result must be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from infer.kernels.ops import Rows, ScaledRows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
#: Of results of each dtype. Half a unit in the last place, where float32 on either side falls on another side of it: one unit.
TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-6},
    torch.bfloat16: {"rtol": 8e-3, "atol": 1e-5},
    torch.float16: {"rtol": 1e-3, "atol": 2e-6},
}
T = TypeVar("T", Tensor, ScaledRows, Rows)


def on(device: torch.device | str, x: T) -> T:
    """A copy there."""
    return ScaledRows(*(t.to(device, copy=True) for t in x)) if isinstance(x, ScaledRows) else x.to(device, copy=True)


def rows_of(count: int, size: int, dtype: torch.dtype, *, scaled: bool = False, seed: int = 0) -> Rows:
    """Random rows, of different sizes where they are scaled."""
    g = torch.Generator().manual_seed(seed + size)
    values = (torch.randn(count, size, generator=g) * 3 + 0.5).to(dtype)
    return ScaledRows(values, torch.rand(count, generator=g) + 0.1) if scaled else values


def take(x: Rows, rows: slice) -> Any:
    return ScaledRows(x.values[rows], x.scale[rows]) if isinstance(x, ScaledRows) else x[rows]


def tensors(x: Rows) -> tuple[Tensor, ...]:
    return tuple(x) if isinstance(x, ScaledRows) else (x,)


def close(got: Rows, want: Rows, dtype: torch.dtype) -> None:
    """Quantized rows: the scales nearly equal, and no value more than one step away, which few are."""
    assert type(got) is type(want)
    if not isinstance(got, ScaledRows) or not isinstance(want, ScaledRows) or got.values.dtype != torch.uint8:
        for a, b in zip(tensors(got), tensors(want), strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a.cpu(), b, **TOLERANCE[dtype])
        return
    torch.testing.assert_close(got.scale.cpu(), want.scale, rtol=2e-5, atol=0)
    steps = (got.values.cpu().int() - want.values.int()).abs()
    assert got.values.dtype == want.values.dtype == torch.uint8
    assert int(steps.max()) <= 1
    assert float(steps.float().mean()) < 0.01


def in_any_company(apply: Callable[..., tuple[Rows, ...]], *inputs: Rows) -> None:
    """Asserts the same bits for a row alone and for some rows as for all of them. `apply` may overwrite what it is given."""
    count = len(tensors(inputs[0])[0])
    whole = apply(*(on(tensors(x)[0].device, x) for x in inputs))
    for part in (slice(0, 1), slice(count - 1, count), slice(3, 9)):
        few = apply(*(on(tensors(x)[0].device, take(x, part)) for x in inputs))
        for a, b in zip(few, whole, strict=True):
            for x, y in zip(tensors(a), tensors(take(b, part)), strict=True):
                assert torch.equal(x, y)
