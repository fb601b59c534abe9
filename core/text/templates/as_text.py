"""Texts that templates make of other values: measured first, and refused if each process would make another one."""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType
from typing import Any

from jinja2 import TemplateRuntimeError

from .budget import charge, looked, measure
from .counted import Lazy

#: Types whose text is short.
SCALARS = frozenset({str, int, float, bool, type(None)})
#: Types whose text would be an address, another one in each process.
_NAMELESS = (GeneratorType, BuiltinFunctionType, FunctionType, MethodType, Lazy)


def text(value: Any) -> str:
    """`str(value)`, charged, and refused for data that would grow without bound (lists that share parts)."""
    if type(value) is not str:
        if type(value) not in SCALARS:
            check_text(value)
        value = str(value)
    charge(len(value))
    made: str = value
    return made


def check_text(value: Any) -> int:
    """Charges for looking at what becomes a text; returns about how many characters that has. Refuses what has none of its own."""
    if isinstance(value, str):
        looked(len(value))
        return len(value)
    size = measure(value)
    for other in size.others:
        kind = type(other)
        if isinstance(other, _NAMELESS) or (kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__):
            raise TemplateRuntimeError(
                "this has no text of its own (an iterator, a function, a method); `| list` gives an iterator's items"
            )
    return size.chars


def concat(values: list[Any]) -> str:
    return "".join([text(value) for value in values])
