"""Weights as our own matrix multiplication reads them: float32 and int8 on every CPU, bf16 where the CPU has dot products of it.

See src/gemm.cpp. The products are in linear.py and int8.py.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from .. import features, memory
from . import library
from .threads import threads

#: Output features of a panel.
PANEL = 32
_WITH_ORDER = 8
_KINDS = {torch.bfloat16: 1, torch.float32: 4}
_NAMES = {"bfloat16": 1, "int8": 2, "float32": 4}
#: Pieces of work for each thread, and rounds of each (src/peak.cpp), with which a peak is measured: some 20 milliseconds.
_PIECES, _ROUNDS = 16, 4000

_kinds = library.function("infer_gemm_kinds", "p")
_peak = library.function("infer_gemm_peak", "ppiii")
_pack = library.function("infer_gemm_pack", "ppiii")
_order = library.function("infer_gemm_order", "pii")


@dataclass(frozen=True, slots=True)
class Panels:
    """A weight [out, in] as the kernel reads it."""

    words: Tensor
    """int32 [panels, words of a row, PANEL]; behind them in memory is the order of an int8 weight that has one (src/gemm/order.h)."""
    out_features: int
    in_features: int
    half: int = 0
    """Features of each of two halves of `out_features`, of which panels hold 16 each; 0: panels hold features that follow each other."""


@functools.cache
def _compiled() -> int:
    kinds = torch.zeros(1, dtype=torch.int64)
    _kinds(kinds)
    return int(kinds)


def multiplies(dtype: torch.dtype) -> bool:
    """True if this kernel multiplies values of that dtype."""
    return bool(_compiled() & _KINDS.get(dtype, 0))


def takes(weight: Tensor) -> bool:
    """True if a weight that is not quantized is for this kernel. Where the CPU has tile registers, oneDNN's is faster."""
    tiles = weight.dtype == torch.bfloat16 and "amx_bf16" in features.features()
    return bool(_compiled() & _KINDS.get(weight.dtype, 0)) and not tiles


def takes_int8() -> bool:
    """True if int8 weights are for this kernel, whose sums are exact on every CPU. Where there are tile registers, oneDNN's is faster."""
    return "amx_int8" not in features.features()


def most_products(kind: str) -> tuple[float, float] | None:
    """See `Ops.most_products`; None for kinds that are left to a library here."""
    number = _NAMES.get(kind, 0)
    if not _compiled() & number or (kind != "float32" and {"amx_bf16", "amx_int8"} & features.features()):
        return None
    pieces, done = _PIECES * threads(), torch.zeros(1, dtype=torch.int64)
    out = torch.empty(pieces)
    started = perf_counter()
    _peak(out, done, number, pieces, _ROUNDS)
    return float(done), perf_counter() - started


def pack(weight: Tensor, *, halves: bool = False) -> Panels:
    """A weight [out, in] for which `takes` holds, or one of codes; with `halves` one for `Ops.linear_gated`."""
    out_features, in_features = weight.shape
    weight = in_words(weight)
    words = weight.shape[1] * weight.itemsize // 4
    half = out_features // 2 if halves else 0
    count = -(-half // (PANEL // 2)) if halves else -(-out_features // PANEL)
    panels = memory.empty((count, words, PANEL), torch.int32)
    _pack(panels, weight, out_features, words, half)
    return Panels(panels, out_features, in_features, half)


def pack_int8(weight: Tensor) -> Panels:
    """An int8 weight [out, in], where `takes_int8` holds."""
    packed = pack(weight)
    if not _compiled() & _WITH_ORDER:
        return packed
    count, row_words, _ = packed.words.shape
    halves, size = 2 * count, packed.words.numel()
    with_order = memory.empty((size + -(-halves // 16) * 16 + halves * (16 + row_words),), torch.int32)
    words = with_order[:size].view(packed.words.shape).copy_(packed.words)
    _order(words, packed.out_features, row_words)
    return replace(packed, words=words)


def in_words(x: Tensor) -> Tensor:
    """Rows, of x or of a weight, as the kernel reads them: contiguous, and filled up with zeros to whole words."""
    lacking = -x.shape[-1] % (4 // x.itemsize)
    return (torch.nn.functional.pad(x, (0, lacking)) if lacking else x).contiguous()
