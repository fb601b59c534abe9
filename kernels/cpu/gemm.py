"""Matrix multiplication of our own: float32 with AVX-512, bf16 and int8 where the CPU has dot products of them. See src/gemm.cpp."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import features
from . import library

#: Output features of a panel.
PANEL = 32
_INT8 = 2
_KINDS = {torch.bfloat16: 1, torch.float32: 4}

_kinds = library.function("infer_gemm_kinds", "p")
_pack = library.function("infer_gemm_pack", "ppii")
_gemm = library.function("infer_gemm", "ppppiiiii")
_int8 = library.function("infer_gemm_int8", "pppppppiiiii")


@dataclass(frozen=True, slots=True)
class Panels:
    """A weight [out, in] as the kernel reads it."""

    words: Tensor
    """int32 [panels, words of a row, PANEL]"""
    out_features: int
    in_features: int


@functools.cache
def _compiled() -> int:
    kinds = ctypes.c_int64()
    _kinds(ctypes.addressof(kinds))
    return kinds.value


def takes(weight: Tensor) -> bool:
    """True if a weight that is not quantized is for this kernel. Where the CPU has tile registers, oneDNN's is faster."""
    tiles = weight.dtype == torch.bfloat16 and "amx_bf16" in features.features()
    whole = weight.shape[1] * weight.itemsize % 4 == 0
    return whole and bool(_compiled() & _KINDS.get(weight.dtype, 0)) and not tiles


def takes_int8(weight: Tensor) -> bool:
    """True if an int8 weight is for this kernel."""
    return weight.shape[1] % 4 == 0 and bool(_compiled() & _INT8) and "amx_int8" not in features.features()


def pack(weight: Tensor) -> Panels:
    """A weight [out, in] for which `takes` or `takes_int8` holds."""
    weight = weight.contiguous()
    out_features, in_features = weight.shape
    words = in_features * weight.itemsize // 4
    panels = torch.empty((-(-out_features // PANEL), words, PANEL), dtype=torch.int32)
    _pack(panels.data_ptr(), weight.data_ptr(), out_features, words)
    return Panels(panels, out_features, in_features)


def multiply(x: Tensor, weight: Panels, bias: Tensor | None) -> Tensor:
    """x [N, in] @ weight^T + bias [out] -> [N, out] in x's dtype, which is the weight's; the bias may be of another, as float32."""
    x = x.contiguous()
    rows, words = x.shape[0], weight.words.shape[1]
    out = torch.empty((rows, weight.out_features), dtype=x.dtype)
    pointers = (library.pointer(tensor) for tensor in (out, x, weight.words, bias))
    bias_dtype = 0 if bias is None else library.DTYPES[bias.dtype]
    _gemm(*pointers, rows, weight.out_features, words, library.DTYPES[x.dtype], bias_dtype)
    return out


def multiply_int8(
    x: Tensor,
    weight: Panels,
    scale: Tensor,
    sums: Tensor,
    dtype: torch.dtype,
    row_scale: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """scale [out] * (uint8 [N, in] @ weight^T - sums int32 [out]) -> [N, out] in bfloat16 or float32. Integer sums are exact.

    With `row_scale` float32 [N]: that * row_scale + bias [out] (of any dtype, or None).
    """
    assert bias is None or row_scale is not None
    x = x.contiguous()
    rows, words = x.shape[0], weight.words.shape[1]
    out = torch.empty((rows, weight.out_features), dtype=dtype)
    pointers = map(library.pointer, (out, x, weight.words, scale, sums, row_scale, bias))
    bias_dtype = 0 if bias is None else library.DTYPES[bias.dtype]
    _int8(*pointers, rows, weight.out_features, words, library.DTYPES[dtype], bias_dtype)
    return out
