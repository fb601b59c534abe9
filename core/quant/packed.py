"""The tensors in a packed weight, whose form is the backend's: a tensor, or tuples and dataclasses that hold some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor


def tensors_of(packed: Any) -> Iterator[Tensor]:
    """Every tensor in it, in order."""
    if isinstance(packed, Tensor):
        yield packed
    elif isinstance(packed, tuple):
        for part in packed:
            yield from tensors_of(part)
    elif is_dataclass(packed):
        for field in fields(packed):
            yield from tensors_of(getattr(packed, field.name))


def with_tensors(packed: Any, tensors: Sequence[Tensor]) -> Any:
    """The same with others for what `tensors_of` gives, as many and in that order."""
    left = iter(tensors)
    result = _replaced(packed, left)
    assert next(left, None) is None, "more tensors than there are places"
    return result


def _replaced(packed: Any, left: Iterator[Tensor]) -> Any:
    if isinstance(packed, Tensor):
        return next(left)
    if isinstance(packed, tuple):
        parts = [_replaced(part, left) for part in packed]
        return type(packed)(*parts) if hasattr(packed, "_fields") else tuple(parts)
    if is_dataclass(packed) and not isinstance(packed, type):
        return replace(packed, **{field.name: _replaced(getattr(packed, field.name), left) for field in fields(packed)})
    return packed
