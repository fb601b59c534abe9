"""Triton's interpreter as these tests need it: bfloat16 rounded as processors do it, products that do not hang on this machine's BLAS,
and less time spent on preparing each call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


def mend() -> None:
    """Once a process. By Triton 3.9 float32 is cut off, not rounded, on its way to bfloat16, and every call of a function from a kernel
    looks through all of the language for names to replace that are replaced already. Its products are numpy's, whose BLAS gives a row
    other bits in another place of a tile, on some processors: what tests say of a row's company they say of our kernels alone.

    Most of a small tile's time is Python's: types and shapes that are made anew for each operation, and every sum of integers done once
    more in 64 bits to see whether it overflows. Types are kept here, and integers wrap around as they do on GPUs, where the results tell.
    """
    interpreter.interpreter_builder.options = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
    _remember_types()
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
    seen_by: dict[str, set[ModuleType]] = {}

    def patched(function: Any) -> Any:
        if function.__module__ not in seen_by:
            values = list(function.__globals__.values())
            seen_by[function.__module__] = {module for module in (tl, tl.core) if any(value is module for value in values)}
        seen = seen_by[function.__module__]
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


def _remember_types() -> None:
    """Of a type and of a tensor what follows from the type's name is found once for each name."""
    interpreter._get_np_dtype = _by_name(interpreter._get_np_dtype)
    interpreter._patch_attr = _patch_attribute
    _remember_fields(tl.core.block_type, lambda element_ty, shape: (element_ty.name, *_numbers(shape)), ["element_ty"])
    _remember_fields(tl.core.tensor, lambda handle, type: type.name, ["handle", "type"])
    TritonSemantic.broadcast_impl_value = _unless_alike(TritonSemantic.broadcast_impl_value)
    TritonSemantic.binary_op_type_checking_impl = _unless_of_a_type(TritonSemantic.binary_op_type_checking_impl)


def _unless_alike(broadcast: Callable[..., Any]) -> Callable[..., Any]:
    """Blocks of one shape are not broadcast."""

    def broadcast_impl_value(self: Any, lhs: Any, rhs: Any) -> Any:
        alike = lhs.type.is_block() and rhs.type.is_block() and lhs.type.shape is rhs.type.shape
        return (lhs, rhs) if alike else broadcast(self, lhs, rhs)

    return broadcast_impl_value


def _unless_of_a_type(check: Callable[..., Any]) -> Callable[..., Any]:
    """Operands of one type of numbers stay what they are, but for floats that are divided."""

    def checked(self: Any, lhs: Any, rhs: Any, *more: Any, **named: Any) -> Any:
        divides = named.get("div_or_mod", len(more) > 3 and more[3])
        if type(lhs) is type(rhs) is tl.core.tensor and lhs.dtype is rhs.dtype and not divides and not lhs.dtype.is_ptr():
            return self.broadcast_impl_value(lhs, rhs)
        return check(self, lhs, rhs, *more, **named)

    return checked


def _by_name(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    known: dict[str, Any] = {}

    def remembered(dtype: Any) -> Any:
        if dtype.name not in known:
            known[dtype.name] = function(dtype)
        return known[dtype.name]

    return remembered


def _numbers(shape: Any) -> list[int]:
    return [number.value if isinstance(number, tl.constexpr) else number for number in shape]


def _remember_fields(cls: type, key_of: Callable[..., Any], given: list[str]) -> None:
    """Fields of an object as those of the first that was made with the same key, but for those that are the arguments themselves."""
    make = cls.__init__  # type: ignore[misc]
    known: dict[Any, dict[str, Any]] = {}

    def __init__(self: Any, *arguments: Any) -> None:
        key = key_of(*arguments)
        fields = known.get(key)
        if fields is None:
            make(self, *arguments)
            known[key] = {name: value for name, value in vars(self).items() if name not in given}
            return
        self.__dict__.update(fields)
        self.__dict__.update(zip(given, arguments, strict=False))

    cls.__init__ = __init__  # type: ignore[misc]


def _patch_attribute(obj: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
    """As the interpreter's own, but for a call in between that looks whether `_semantic` is given, and a dictionary made anew."""
    function = getattr(member, "__wrapped__", member)

    def called(*arguments: Any, **named: Any) -> Any:
        named["_semantic"] = interpreter.interpreter_semantic
        return function(*arguments, **named)

    scope.set_attr(obj, name, called)
