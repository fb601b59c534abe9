"""Spans: a step never ends within one, and its tokens see all of it."""

from __future__ import annotations

import numpy as np

from infer.core.types.spans import Spans, runs_of

SPANS = Spans(((3, 7), (7, 9), (12, 20)), windowed=True)


def test_a_step_takes_what_is_left_of_a_span_or_ends_before_it() -> None:
    assert [SPANS.count(0, count, 20) for count in (2, 3, 4, 6, 7, 8, 9, 10, 15, 20)] == [2, 3, 3, 3, 7, 7, 9, 10, 12, 20]
    assert SPANS.count(3, 1, 4) == 4
    assert SPANS.count(3, 1, 3) == 0  # no room
    assert SPANS.count(15, 1, 5) == 5  # its first tokens were in the cache
    assert SPANS.longest == 8
    for computed in range(20):
        for count in range(1, 21 - computed):
            taken = SPANS.count(computed, count, 8)
            assert taken > 0
            assert not any(start < computed + taken < stop for start, stop in SPANS.bounds)


def test_what_tokens_see() -> None:
    assert SPANS.seen(2, 10).tolist() == [[2, 2], [3, 6], [4, 6], [5, 6], [6, 6], [7, 8], [8, 8], [9, 9]]
    assert Spans(SPANS.bounds, windowed=False).seen(5, 8).tolist() == [[3, 6], [3, 6], [7, 8]]


def test_runs() -> None:
    assert runs_of([np.array([5, 6, 7, 9]), np.array([3, 10])]) == ((5, 8), (9, 11))
    assert runs_of([]) == ()
