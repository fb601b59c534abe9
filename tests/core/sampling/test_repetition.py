"""Repetitions at the end of an output: the same as by comparing every pattern at every token."""

from __future__ import annotations

import random

import pytest

from infer.core.errors import RecordError
from infer.core.sampling.repetition import RepetitionCount
from infer.core.types.repetition import RepetitionDetectionParams


def repeats(tokens: list[int], params: RepetitionDetectionParams) -> bool:
    """By the definition: the last tokens are one pattern, `min_count` times."""
    for size in range(max(1, params.min_pattern_size), params.max_pattern_size + 1):
        whole = size * params.min_count
        if whole <= len(tokens) and tokens[-whole:] == tokens[-size:] * params.min_count:
            return True
    return False


def test_against_the_definition() -> None:
    rng, found = random.Random(3), 0
    for _ in range(300):
        first = rng.randint(0, 4)
        params = RepetitionDetectionParams(first + rng.randint(1, 6), first, rng.randint(2, 4))
        tokens: list[int] = []
        count = RepetitionCount(params, longest=60)
        for _ in range(60):
            # Now and then a stretch is said again, so that long patterns come up.
            again = tokens[-rng.randint(1, 8) :] if tokens and rng.random() < 0.4 else [rng.randint(0, 2)]
            for token in again[: 60 - len(tokens)]:
                tokens.append(token)
                expected = repeats(tokens, params)
                assert count.push(token) is expected, (params, tokens)
                found += expected
    assert found > 1000


def test_what_was_missed_is_caught_up_with() -> None:
    params = RepetitionDetectionParams(max_pattern_size=2, min_count=3)
    count = RepetitionCount(params, longest=50)
    assert not count.catch_up([9, 9, 9, 1, 2, 1, 2], num_prompt=3)  # what the prompt repeats is no matter
    assert count.catch_up([9, 9, 9, 1, 2, 1, 2, 1, 2], num_prompt=3)
    assert not count.catch_up([9, 9, 9, 1, 2, 1, 2, 1, 2, 5], num_prompt=3)


def test_patterns_longer_than_any_output_cost_nothing() -> None:
    count = RepetitionCount(RepetitionDetectionParams(10**15, 0, 10**9), longest=100)
    assert not any(count.push(1) for _ in range(100))
    assert len(count._runs) == 0
    assert len(RepetitionCount(RepetitionDetectionParams(10**15, 0, 2), longest=100)._runs) == 50


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (5, "invalid_type"),
        ({"max_pattern_size": 1.5, "min_count": 2}, "invalid_type"),
        ({"max_pattern_size": True, "min_count": 2}, "invalid_type"),
        ({"max_pattern_size": -1}, "invalid_value"),
        ({"max_pattern_size": 4}, "invalid_value"),
        ({"max_pattern_size": 4, "min_count": 1}, "invalid_value"),
        ({"max_pattern_size": 4, "min_pattern_size": 5, "min_count": 2}, "invalid_value"),
        ({"max_patern_size": 4, "min_count": 2}, "invalid_value"),
    ],
)
def test_wrong_values(value: object, code: str) -> None:
    with pytest.raises(RecordError) as caught:
        RepetitionDetectionParams.of(value)
    assert (caught.value.code, caught.value.param) == (code, "repetition_detection")


def test_none_is_looked_for() -> None:
    assert RepetitionDetectionParams.of({}) is None
    assert RepetitionDetectionParams.of({"max_pattern_size": 0, "min_count": None}) is None
