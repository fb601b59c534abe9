"""Kinds of values in a column, and the type that holds them all without loss.

bool, int, float, text       int: 64 bits; float: integers among them count up to 2^53, beyond which they would be rounded
integers, numbers, texts     lists of these
text                         anything else too: what is no string is JSON
"""

from __future__ import annotations

from typing import Any, Literal

import orjson

from ...jsonl import dumps

Type = Literal["bool", "int", "float", "text", "integers", "numbers", "texts"]

_NULL, _BOOL, _INT, _WIDE, _FLOAT, _TEXT, _INTEGERS, _NUMBERS, _TEXTS, _EMPTY, _OTHER = (0, *(1 << bit for bit in range(10)))
_EXACT = 1 << 53
_SCALARS: dict[type, int] = {type(None): _NULL, bool: _BOOL, float: _FLOAT, str: _TEXT}


def kind_of(value: Any) -> int:
    """The kind of a parsed JSON value, one bit; 0 for null. The kinds of a column are those of its values, or-ed."""
    kind = _SCALARS.get(type(value))
    if kind is not None:
        return kind
    if type(value) is int:
        return _INT if -_EXACT <= value <= _EXACT else _WIDE if -(1 << 63) <= value < 1 << 63 else _OTHER
    return _kind_of_list(value) if isinstance(value, list) else _OTHER


def _kind_of_list(value: list[Any]) -> int:
    if not value:
        return _EMPTY
    kinds = set(map(type, value))
    if kinds == {str}:
        return _TEXTS
    if kinds == {float}:
        return _NUMBERS
    if kinds <= {int, float} and all(abs(one) <= _EXACT for one in value if type(one) is int):
        return _INTEGERS if kinds == {int} else _NUMBERS
    return _OTHER


def type_of(kinds: int, otherwise: Type) -> Type:
    """The type of a column with values of these kinds; `otherwise`: of one that has none."""
    if not kinds:
        return otherwise
    fits: tuple[tuple[int, Type], ...] = (
        (_BOOL, "bool"),
        (_INT | _WIDE, "int"),
        (_INT | _FLOAT, "float"),
        (_INTEGERS | _EMPTY, "integers"),
        (_INTEGERS | _NUMBERS | _EMPTY, "numbers"),
        (_TEXTS | _EMPTY, "texts"),
    )
    if kinds == _EMPTY:
        return otherwise if otherwise in ("integers", "numbers", "texts") else "text"
    return next((name for allowed, name in fits if not kinds & ~allowed), "text")


def text_of(value: Any) -> str | None:
    """A value as text: a string as it is, anything else as JSON; None for null."""
    if value is None or isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # an integer over 64 bits
        return dumps(value).decode()
