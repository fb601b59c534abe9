"""Peaks of this machine, measured now and in this process: multiplications, and reading memory.

A share of a peak says how much is left to gain. So of our own kernels the peak is not what they reach in a large multiplication, but what
their instructions can do with all values in registers and in the first cache; where the backend cannot tell, it is a large multiplication.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import torch

from infer.kernels.ops import Ops

#: Rows, input and output features of the large multiplication: enough work for all threads, weights beyond the caches.
GEMM = (1024, 2048, 4096)
#: Bytes read to find out how fast memory is; beyond every cache.
READ_BYTES = 256 << 20
#: Seconds spent on each measurement, about.
SECONDS = 0.5


@dataclass(frozen=True)
class Peaks:
    """Best of several calls each."""

    gemm: Mapping[str, float]
    """Type ("bfloat16", "int8"...) -> additions and multiplications a second."""
    read: float
    """Bytes a second."""


@torch.inference_mode()
def measure_peaks(ops: Ops, dtypes: Mapping[str, torch.dtype], device: torch.device) -> Peaks:
    """Multiplications in each of `dtypes` and, where `ops` has it, in int8; takes some seconds."""
    rows, size_in, size_out = GEMM
    wait = torch.cuda.synchronize if device.type == "cuda" else None
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(rows, size_in, generator=generator, device=device)
    weight = torch.randn(size_out, size_in, generator=generator, device=device)
    gemm = {}
    for name, dtype in dtypes.items():
        rows_in, packed = x.to(dtype), ops.pack_weight(weight.to(dtype))
        gemm[name] = _most(ops, name) or _flops(lambda x=rows_in, w=packed: ops.linear(x, w, None), wait)  # type: ignore[misc]
    if ops.supports_int8():
        quantized, packed, dtype = ops.quantize(x), ops.pack_int8(weight), next(iter(dtypes.values()))
        gemm["int8"] = _most(ops, "int8") or _flops(lambda: ops.linear_int8(quantized, packed, None, dtype), wait)
    memory = torch.ones(READ_BYTES // 4, device=device)
    return Peaks(gemm, READ_BYTES / best_of(memory.sum, SECONDS, wait))


def _most(ops: Ops, kind: str) -> float | None:
    """The best that the backend's instructions do in about SECONDS; None where it cannot tell."""
    best, spent, calls = 0.0, 0.0, 0
    while calls < 3 or spent < SECONDS:
        if (found := ops.most_products(kind)) is None:
            return None
        done, took = found
        best, spent, calls = max(best, done / took), spent + took, calls + 1
    return best


def _flops(multiply: Callable[[], object], wait: Callable[[], None] | None) -> float:
    return 2 * GEMM[0] * GEMM[1] * GEMM[2] / best_of(multiply, SECONDS, wait)


def best_of(call: Callable[[], object], seconds: float, wait: Callable[[], None] | None = None, *, least: int = 3) -> float:
    """The shortest of the calls that fit into about `seconds`, at least `least` of them, after one that does not count."""
    best, spent, calls = float("inf"), 0.0, 0
    call()
    while calls < least or spent < seconds:
        if wait is not None:
            wait()
        started = perf_counter()
        call()
        if wait is not None:
            wait()
        took = perf_counter() - started
        best, spent, calls = min(best, took), spent + took, calls + 1
    return best
