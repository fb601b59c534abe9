"""Bounds of numbers in JSON schemas, brought into the form that the grammar library holds exactly."""

from __future__ import annotations

import math
from typing import Any

#: Whole numbers up to here are exact in every reader of JSON.
MAX_INTEGER = 2**53
#: Highest `multipleOf`: the library counts remainders.
MAX_STEP = 10_000
#: Powers of ten between a bound near 0 and the smallest number that is taken for one above 0.
_SMALLER = 12

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def tighten(schema: dict[str, Any], *, joined: bool) -> None:
    """Rewrites the keywords for numbers of one schema in place.

    Args:
        schema: a schema, other keywords and all.
        joined: other schemas may hold for the same value.

    Raises ValueError saying what is no bound, or none that can be enforced.
    """
    for name in _BOUNDS:
        value = schema.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name} must be a number")
        if not abs(value) <= MAX_INTEGER:
            raise ValueError(f"{name} is too large to be enforced exactly")
    for least, open_least, pick in (("minimum", "exclusiveMinimum", max), ("maximum", "exclusiveMaximum", min)):
        if least in schema and open_least in schema:  # the tighter of two is enough
            tighter = pick(schema[least], schema[open_least])
            del schema[least if schema[open_least] == tighter else open_least]
    _leave_out_zero(schema, joined)
    step = schema.get("multipleOf", 1)
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not 0 < step < math.inf:
        raise ValueError("multipleOf must be a number above 0")
    if step != int(step) or step > MAX_STEP:
        raise ValueError(f"multipleOf can be enforced for whole numbers up to {MAX_STEP}")
    if "multipleOf" in schema:
        schema["multipleOf"] = int(step)


def _leave_out_zero(schema: dict[str, Any], joined: bool) -> None:
    """Numbers above (or below) 0 that are all less than 1 begin at the smallest worth writing: the library would let `0` through.

    Where another schema may hold for the value it may be that one which has the bound.
    """
    for strict, loose, others, sign in (
        ("exclusiveMinimum", "minimum", ("maximum", "exclusiveMaximum"), 1),
        ("exclusiveMaximum", "maximum", ("minimum", "exclusiveMinimum"), -1),
    ):
        if schema.get(strict) != 0:
            continue
        far = min([sign * schema[name] for name in others if name in schema], default=1 if joined else math.inf)
        smallest = float(f"1e{math.floor(math.log10(far)) - _SMALLER}") if 0 < far <= 1 else 0
        if smallest:
            del schema[strict]
            schema[loose] = sign * smallest
