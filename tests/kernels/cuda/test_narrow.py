"""Numbers of narrow types by their bits, against torch's conversions."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from infer.kernels.cuda.narrow import from_e4m3, narrowed, to_float8


@triton.jit
def _decode(out, codes, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(out + i, from_e4m3(tl.load(codes + i)))


@triton.jit
def _encode(out, numbers, SIZE: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr, MOST: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(out + i, to_float8(tl.load(numbers + i), MANTISSA, BIAS, MOST))


@triton.jit
def _narrow(out, numbers, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(out + i, narrowed(tl.load(numbers + i), out.dtype.element_ty))


FORMATS = {torch.float8_e4m3fn: (3, 7, 448.0), torch.float8_e5m2: (2, 15, 57344.0)}


def test_every_code_is_read(device: torch.device) -> None:
    codes = torch.arange(256, dtype=torch.uint8, device=device)
    out = torch.empty(256, device=device)
    _decode[(1,)](out, codes, SIZE=256)
    torch.testing.assert_close(out, codes.view(torch.float8_e4m3fn).float(), rtol=0, atol=0, equal_nan=True)


def points(kind: torch.dtype, device: torch.device) -> torch.Tensor:
    """float32 [1024]: every number of the format, the middle to the next one, a little to either side of both, and some more."""
    codes = torch.arange(127, dtype=torch.uint8).view(kind).float()
    exact = codes[codes.isfinite()]
    near = torch.cat([exact, (exact[1:] + exact[:-1]) / 2])
    near = torch.cat([near, near * (1 + 1e-6), near * (1 - 1e-6)])
    near = near[near <= exact.max()]
    some = torch.rand(1024 - len(near), generator=torch.Generator().manual_seed(0)) * 0.1
    return torch.cat([near, some]).to(device)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("kind", FORMATS, ids=str)
def test_float8_is_rounded_to_the_nearest(device: torch.device, kind: torch.dtype, sign: float) -> None:
    numbers = points(kind, device) * sign
    out = torch.empty(1024, dtype=torch.uint8, device=device)
    mantissa, bias, most = FORMATS[kind]
    _encode[(1,)](out, numbers, SIZE=1024, MANTISSA=mantissa, BIAS=bias, MOST=most)
    assert torch.equal(out, numbers.to(kind).view(torch.uint8))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, *FORMATS], ids=str)
def test_every_type_is_rounded_to_the_nearest(device: torch.device, kind: torch.dtype) -> None:
    if kind == torch.float8_e4m3fn and device.type == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("goes by its bits here")
    numbers = points(torch.float8_e4m3fn, device) * 1.003
    numbers[:4] = torch.tensor([0.0, -0.0, 1.99999, -1.00390625], device=device)
    out = torch.empty(1024, dtype=kind, device=device)
    _narrow[(1,)](out, numbers, SIZE=1024)
    most = FORMATS[kind][2] if kind in FORMATS else 1e4
    assert torch.equal(out.float(), numbers.clamp(-most, most).to(kind).float())
    numbers[:] = float("nan")
    _narrow[(1,)](out, numbers, SIZE=1024)
    assert out.float().isnan().all()


@pytest.mark.parametrize("kind", FORMATS, ids=str)
def test_too_large_is_the_largest_and_nan_stays(device: torch.device, kind: torch.dtype) -> None:
    mantissa, bias, most = FORMATS[kind]
    inf, nan = float("inf"), float("nan")
    numbers = torch.tensor([most + 1, 1e9, inf, -1e9, -inf, nan, -most, 0.0], device=device)
    out = torch.empty(8, dtype=torch.uint8, device=device)
    _encode[(1,)](out, numbers, SIZE=8, MANTISSA=mantissa, BIAS=bias, MOST=most)
    expected = torch.tensor([most, most, most, -most, -most, nan, -most, 0.0], device=device)
    torch.testing.assert_close(out.view(kind).float(), expected, equal_nan=True)
