"""Numbers within their bounds come out plain; those that are not are refused in words that say what they may be."""

from __future__ import annotations

import enum
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from infer.core.errors import RecordError
from infer.core.types.beam_params import OF_TOKENS, BeamSearchParams
from infer.core.types.bounds import MOST, Bounds, bounds_of
from infer.core.types.params import SamplingParams
from infer.core.types.pooling_params import PoolingParams

COUNT, RATE = Bounds("int", 0), Bounds("float", -2, 2)


class Five(enum.IntEnum):
    FIVE = 5


@pytest.mark.parametrize(
    ("bounds", "value", "plain"),
    [
        (COUNT, 0, 0),
        (COUNT, MOST, MOST),
        (COUNT, 2**63, MOST),
        (COUNT, Five.FIVE, 5),
        (RATE, 2, 2.0),
        (RATE, np.float64(0.1), 0.1),
        (Bounds("float", 0), 2**200, 2.0**200),
        (Bounds("int", 1, none=True), None, None),
    ],
)
def test_plain_numbers(bounds: Bounds, value: Any, plain: Any) -> None:
    got = bounds.check("it", value)
    assert (got, type(got)) == (plain, type(plain))


@pytest.mark.parametrize(
    ("bounds", "value", "code", "message"),
    [
        (COUNT, -1, "invalid_value", "it must be at least 0, not -1"),
        (Bounds("int", 1, 9), 2**63, "invalid_value", f"it must be at least 1 and at most 9, not {2**63}"),
        (COUNT, 5.0, "invalid_type", "it must be an integer, not float"),
        (COUNT, True, "invalid_type", "it must be an integer, not bool"),
        (COUNT, None, "invalid_type", "it must be an integer, not NoneType"),
        (COUNT, np.int64(5), "invalid_type", "it must be an integer, not int64"),
        (RATE, math.nan, "invalid_value", "it must be at least -2 and at most 2, not nan"),
        (RATE, -(10**400), "invalid_value", "it must be at least -2 and at most 2, not an integer of 1329 bits"),
        (Bounds("float", 0), 10**400, "invalid_value", "it must be at most 1.7976931348623157e+308, not an integer of 1329 bits"),
        (Bounds("float", 0, open_low=True), 0, "invalid_value", "it must be above 0, not 0"),
        (Bounds("float", 0), math.inf, "invalid_value", "it must be at least 0, not inf"),
        (RATE, "1", "invalid_type", "it must be a number, not str"),
    ],
)
def test_refused(bounds: Bounds, value: Any, code: str, message: str) -> None:
    with pytest.raises(RecordError) as error:
        bounds.check("it", value)
    assert (error.value.code, error.value.message, error.value.param) == (code, message, "it")


@pytest.mark.parametrize("kind", [SamplingParams, BeamSearchParams, PoolingParams])
def test_every_field_that_is_a_number_has_bounds(kind: type[Any]) -> None:
    elsewhere = OF_TOKENS if kind is BeamSearchParams else ()  # checked as fields of SamplingParams
    numbers = [f for f in fields(kind) if str(f.type).removesuffix(" | None") in ("int", "float") and f.name not in elsewhere]
    assert numbers
    assert [f.name for f in numbers if bounds_of(f) is None] == []


def test_token_ids_and_biases_are_plain_too() -> None:
    params = SamplingParams(stop_token_ids=[Five.FIVE], stop=[np.str_("end")], logit_bias={"7": 10**300, Five.FIVE: -1})  # type: ignore
    assert [type(one) for one in (*params.stop_token_ids, *params.stop, *(params.logit_bias or {}))] == [int, str, int, int]
    assert params.logit_bias == {7: 100.0, 5: -1.0}
    for wrong in ({"9" * 5000: 1}, {"5": math.nan}, {5: 10**400}, {1: True}, {-1: 1}, {"٣": 1}):
        with pytest.raises(RecordError):
            SamplingParams(logit_bias=wrong)


def test_an_integer_too_long_to_be_written_is_refused_all_the_same() -> None:
    with pytest.raises(RecordError, match="not an integer of 16610 bits"):
        SamplingParams(n=10**5000)
