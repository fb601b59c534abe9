"""Triton's interpreter as these tests need it: bfloat16 rounded as processors do it, and less time spent on preparing each call."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def mend() -> None:
    """Once a process. By Triton 3.9 float32 is cut off, not rounded, on its way to bfloat16, and every call of a function from a kernel
    looks through all of the language for names to replace that are replaced already."""
    interpreter._convert_float = _rounding(interpreter._convert_float)
    if hasattr(interpreter, "_LangPatchScope"):
        interpreter._patch_lang = _once_a_launch(interpreter._patch_lang)


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
