"""Triton's interpreter as these tests need it: bfloat16 rounded as processors do it, products that do not hang on this machine's BLAS,
and less time spent on preparing each call."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def mend() -> None:
    """Once a process. By Triton 3.9 float32 is cut off, not rounded, on its way to bfloat16, and every call of a function from a kernel
    looks through all of the language for names to replace that are replaced already. Its products are numpy's, whose BLAS gives a row
    other bits in another place of a tile, on some processors: what tests say of a row's company they say of our kernels alone."""
    interpreter._convert_float = _rounding(interpreter._convert_float)
    interpreter.InterpreterBuilder.create_dot = _dot_in_order
    if hasattr(interpreter, "_LangPatchScope"):
        interpreter._patch_lang = _once_a_launch(interpreter._patch_lang)


def _dot_in_order(builder: Any, a: Any, b: Any, acc: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
    """a [M, K] @ b [K, N] + acc [M, N], as every element by itself: its products are added up in the order of K, one after the other."""
    dtype = acc.data.dtype
    parts = [_exact(x).astype(dtype, copy=False) for x in (a, b)]
    total = np.zeros_like(acc.data)
    for column, row in zip(np.moveaxis(parts[0], -1, 0), np.moveaxis(parts[1], -2, 0), strict=True):
        total += column[..., :, None] * row[..., None, :]
    return interpreter.TensorHandle(total + acc.data, acc.dtype.scalar)


def _exact(x: Any) -> np.ndarray:
    """The numbers of an operand, those of float8 as float16."""
    if x.dtype.primitive_bitwidth == 8 and x.dtype.is_floating():
        return interpreter._convert_float(x.data, x.dtype, tl.float16, None).view(np.float16)
    data: np.ndarray = x.data
    return data


def _rounding(convert: Any) -> Any:
    def converted(data: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
        if source == tl.bfloat16 and target == tl.float32:
            return np.ascontiguousarray(data).view(np.uint16).astype(np.uint32) << 16
        if source == tl.float32 and target == tl.bfloat16:
            bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32)
            even = ((bits >> 16) & 1) + 0x7FFF
            nan = (bits & 0x7FFFFFFF) > 0x7F800000
            return np.where(nan, (bits >> 16) | 0x40, (bits + even) >> 16).astype(np.uint16)
        result: np.ndarray = convert(data, source, target, rounding)
        return result

    return converted


def _once_a_launch(patch: Any) -> Any:
    replaced: set[ModuleType] = set()

    def patched(function: Any) -> Any:
        seen = {module for module in (tl, tl.core) if any(value is module for value in function.__globals__.values())}
        if seen and seen <= replaced:
            return interpreter._LangPatchScope()
        scope = patch(function)
        replaced.update(seen)
        restore = scope.restore

        def restored() -> None:
            restore()
            replaced.clear()

        scope.restore = restored
        return scope

    return patched
