"""Weights as our own matrix multiplication reads them: float32 and int8 on every CPU, bf16 where the CPU has dot products of it.

See src/gemm.cpp. The products are in linear.py and int8.py.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from .. import features, memory
from . import library
from .threads import threads

#: Output features of a panel.
PANEL = 32
#: A bit of `infer_gemm_kinds` beside those of types: float32 weights may be bf16.
_WIDENED = 16
_KINDS = {torch.bfloat16: 1, torch.float32: 4}
_NAMES = {"bfloat16": 1, "int8": 2, "float32": 4}
#: Pieces of work for each thread, and rounds of each (src/peak.cpp), with which a peak is measured: some 20 milliseconds.
_PIECES, _ROUNDS = 16, 4000

_kinds = library.function("infer_gemm_kinds", "p")
_instructions = library.function("infer_instructions", "pi")
_peak = library.function("infer_gemm_peak", "ppiii")
_pack = library.function("infer_gemm_pack", "ppiii")
_pack_int8 = library.function("infer_gemm_pack_int8", "pppiii")
_int8_tail = library.function("infer_gemm_int8_tail", "pi")
_fits = library.function("infer_gemm_fits_bf16", "ppi")


@dataclass(frozen=True, slots=True)
class Panels:
    """A weight [out, in] as the kernel reads it."""

    words: Tensor
    """int32 [panels, words of a row + `tail`, PANEL], in the order that this build goes through them (src/gemm.h; int8 src/gemm/pairs.h)"""
    out_features: int
    in_features: int
    half: int = 0
    """Features of each of two halves of `out_features`, of which panels hold 16 each; 0: panels hold features that follow each other."""
    widened: bool = False
    """float32 kept as bf16, two values a word, and widened as it is read."""
    tail: int = 0
    """Of the words of each panel, those that are not a row's: they say in which order the others are."""

    @property
    def row_words(self) -> int:
        """Words of a row."""
        return self.words.shape[1] - self.tail


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


@dataclass(frozen=True, slots=True)
class Instructions:
    """What the compiled kernels multiply with, as a person would call it, and the compiler that made them."""

    compiler: str
    float32: str
    bfloat16: str
    int8: str
    attention_float32: str
    attention_bfloat16: str
    attention_int8: str
    """Of keys and values in int8."""


def instructions() -> Instructions:
    """Those of this build. Where there are tile registers, oneDNN multiplies; so it does bfloat16 where there are no dot products of it."""
    text = torch.zeros(512, dtype=torch.uint8)
    _instructions(text, text.numel())
    compiler, float32, bfloat16, int8, *attention = bytes(text.tolist()).rstrip(b"\0").decode().split("\n")
    tiles = "oneDNN, with AMX" if "amx_bf16" in features.features() else ""
    return Instructions(
        " ".join(compiler.split()[:2]),  # its name and version; behind them some say where they were built
        float32,
        tiles or bfloat16 or "oneDNN, without dot products",
        f"{int8}, exact" if takes_int8() else "oneDNN, with AMX, exact",
        *attention,
    )


def pack(weight: Tensor, *, halves: bool = False) -> Panels:
    """A weight [out, in] for which `takes` holds, or one of codes; with `halves` one for `Ops.linear_gated`.

    float32 all of whose values are bf16's, as those of most checkpoints are, is kept as that where the kernel can widen it: the bits of
    products are the same, and with few rows they take half the time.
    """
    out_features, in_features = weight.shape
    widened = weight.dtype == torch.float32 and bool(_compiled() & _WIDENED) and fits_bfloat16(weight)
    weight = in_words(weight.bfloat16() if widened else weight)
    words = weight.shape[1] * weight.itemsize // 4
    half, count = _halves(out_features, halves)
    panels = memory.empty((count, words, PANEL), torch.int32)
    _pack(panels, weight, out_features, words, half)
    return Panels(panels, out_features, in_features, half, widened)


def fits_bfloat16(weight: Tensor) -> bool:
    """True if bf16 has all values of a float32 weight."""
    weight, answer = weight.contiguous(), torch.empty(1, dtype=torch.int64)
    _fits(answer, weight, weight.numel())
    return bool(answer)


def pack_int8(values: Tensor, *, halves: bool = False) -> tuple[Panels, Tensor]:
    """A weight int8 [out, in], and int32 [out]: what is to be taken off the sums of products, since rows have INT8_ZERO for 0.

    `halves`: for `linear_int8_gated`.
    """
    out_features, in_features = values.shape
    values, tail = in_words(values), torch.empty(1, dtype=torch.int64)
    words = values.shape[1] // 4
    assert words <= 1 << 16, "their order is kept in 16 bits"
    _int8_tail(tail, words)
    half, count = _halves(out_features, halves)
    panels = memory.empty((count, words + int(tail), PANEL), torch.int32)
    offset = torch.empty(out_features, dtype=torch.int32)
    _pack_int8(panels, offset, values, out_features, words, half)
    return Panels(panels, out_features, in_features, half, tail=int(tail)), offset


def _halves(out_features: int, halves: bool) -> tuple[int, int]:
    """The features of each half, or 0, and the number of panels."""
    half = out_features // 2 if halves else 0
    return half, -(-half // (PANEL // 2)) if halves else -(-out_features // PANEL)


def rows_for(x: Tensor, panels: Panels) -> Tensor:
    """Rows as the kernel reads them beside that weight."""
    return _filled(x, panels.row_words * (2 if panels.widened else 4 // x.itemsize))


def in_words(weight: Tensor) -> Tensor:
    """A weight's rows filled up with zeros to whole words, contiguous."""
    return _filled(weight, -(-weight.shape[-1] * weight.itemsize // 4) * 4 // weight.itemsize)


def _filled(x: Tensor, size: int) -> Tensor:
    lacking = size - x.shape[-1]
    return (torch.nn.functional.pad(x, (0, lacking)) if lacking else x).contiguous()
