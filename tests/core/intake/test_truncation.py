"""Prompts cut to length."""

from __future__ import annotations

import pytest

from infer.core.intake.prompts import truncated
from infer.core.types.params import SamplingParams

IDS = [10, 11, 12, 13, 14]


@pytest.mark.parametrize(
    ("limit", "side", "max_model_len", "left"),
    [
        (None, "left", 3, IDS),
        (3, "left", 100, [12, 13, 14]),
        (3, "right", 100, [10, 11, 12]),
        (1, "left", 100, [14]),
        (5, "left", 100, IDS),
        (9, "right", 100, IDS),
        (-1, "left", 4, [12, 13, 14]),
        (-1, "right", 4, [10, 11, 12]),
        (-1, "left", 6, IDS),
        (-1, "left", 5, [11, 12, 13, 14]),
        (-1, "left", 1, [14]),
        (4, "left", 3, [11, 12, 13, 14]),
    ],
)
def test_truncated(limit: int | None, side: str, max_model_len: int, left: list[int]) -> None:
    params = SamplingParams(truncate_prompt_tokens=limit, truncation_side=side)
    given = list(IDS)
    assert truncated(given, params, max_model_len) == left
    assert given == IDS
