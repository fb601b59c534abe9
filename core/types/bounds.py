"""Bounds of the numbers that callers give: kind and range, checked here and nowhere else.

A number that passes is a plain int or float of 64 bits, whatever it was (an integer where a float is wanted, numpy's float, an IntEnum):
it goes into arrays, and in frames to other engines.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from functools import cache
from typing import Any, TypeVar

from ..errors import RecordError

T = TypeVar("T", bound="Checked")

#: Largest integer that arrays and frames hold.
MOST = 2**63 - 1
#: Bits of an integer that is written out in a message; JSON readers differ from 64 on, and Python refuses to write very long ones.
_SHOWN_BITS = 256


@dataclass(frozen=True, slots=True)
class Bounds:
    """
    Args:
        kind: "int", or "float", which integers are too.
        low, high: the range. None as `high` is no limit: an integer that 64 bits do not hold then is the largest that they do, which
            means the same (so many tokens there never are); a float must be finite.
        open_low: the number must be above `low`, not at it.
        none: None may stand in its place.
    """

    kind: str
    low: float
    high: float | None = None
    open_low: bool = False
    none: bool = False

    def check(self, name: str, value: Any, type_name: Callable[[Any], str] = lambda value: type(value).__name__) -> Any:
        """`value` as a plain int or float, or None. Raises RecordError (invalid_type, invalid_value) that names the field."""
        if value is None and self.none:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float) if self.kind == "float" else int):
            wanted = "an integer" if self.kind == "int" else "a number"
            raise RecordError("invalid_type", f"{name} must be {wanted}, not {type_name(value)}", param=name)
        if not self._holds(value):
            raise RecordError("invalid_value", f"{name} must be {self._limit(value)}, not {_shown(value)}", param=name)
        return min(int(value), MOST) if self.kind == "int" else float(value)

    def _holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low  # neither is true of NaN
        if not above or (self.high is not None and value > self.high):
            return False
        return self.kind == "int" or is_finite(value)

    def _limit(self, value: float) -> str:
        """The range in words; what a float holds is only told to those who passed it."""
        if self.high is None and isinstance(value, int) and value > self.low:
            return f"at most {sys.float_info.max}"
        low = f"{'above' if self.open_low else 'at least'} {self.low}"
        return low if self.high is None else f"{low} and at most {self.high}"


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def check(self, name: str, value: Any) -> Any:
        """Raises RecordError."""
        if not isinstance(value, bool):
            raise RecordError("invalid_type", f"{name} must be true or false, not {type(value).__name__}", param=name)
        return value


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values."""

    choices: tuple[Any, ...]

    def check(self, name: str, value: Any) -> Any:
        """Raises RecordError."""
        if value not in self.choices:
            raise RecordError("invalid_value", f"{name} must be {' or '.join(self.choices)}, not {value!r}", param=name)
        return value


class Checked:
    """A dataclass of parameters, whose fields say what they may hold."""

    @classmethod
    @cache
    def checks(cls) -> Mapping[str, Bounds | Flag | Choice]:
        """Of numbers, flags and choices, in the order of the fields."""
        found: dict[str, Bounds | Flag | Choice] = {}
        for f in fields(cls):  # type: ignore[arg-type]
            if (bounds := bounds_of(f)) is not None:
                found[f.name] = bounds
            elif "choices" in f.metadata:
                found[f.name] = Choice(f.metadata["choices"])
            elif f.type == "bool":
                found[f.name] = Flag()
        return found

    @classmethod
    @cache
    def field_names(cls) -> frozenset[str]:
        return frozenset(f.name for f in fields(cls))  # type: ignore[arg-type]

    def check_fields(self) -> None:
        """Raises RecordError for the first field that is wrong; numbers are plain ones afterwards."""
        for name, check in self.checks().items():
            setattr(self, name, check.check(name, getattr(self, name)))

    def clone(self: T) -> T:
        """A copy, checked again. Raises RecordError."""
        return replace(self)  # type: ignore[type-var]


def bounded(bounds: Bounds, **default: Any) -> Any:
    """A dataclass field that is a number within `bounds`; its class checks it."""
    return field(metadata={"bounds": bounds}, **default)


def bounds_of(f: Field[Any]) -> Bounds | None:
    """The bounds of a dataclass field that is a number."""
    return f.metadata.get("bounds")


def is_finite(value: float) -> bool:
    """True for a number that a float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _shown(value: float) -> str:
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return f"an integer of {value.bit_length()} bits"
    return str(value)
