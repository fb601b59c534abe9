"""Histograms of times and lengths."""

from __future__ import annotations

import random
import statistics

from infer.core.jobs.distinct import Distinct
from infer.core.jobs.histogram import Histogram


def test_numbers_of_a_histogram() -> None:
    values = [random.Random(0).randrange(1000) for _ in range(501)]
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    told = histogram.to_json()
    assert (histogram.count, histogram.total) == (501, sum(values))
    assert told["median"] == statistics.median(values)
    assert told["p90"] == sorted(values)[450]  # 451 of 501 are not above it
    assert (told["min"], told["max"], told["mean"]) == (min(values), max(values), round(statistics.mean(values), 1))


def test_many_at_once() -> None:
    histogram = Histogram()
    histogram.add(3, 99)
    histogram.add(7)
    assert histogram.to_json() == {"min": 3, "median": 3, "mean": 3.0, "p90": 3, "p99": 3, "max": 7}
    assert (histogram.count, histogram.total) == (100, 304)


def test_an_empty_histogram() -> None:
    assert set(Histogram().to_json().values()) == {None}
    assert Histogram().buckets() == []


def test_buckets() -> None:
    histogram = Histogram()
    for value in (1, 2, 3, 8, 15, 15):
        histogram.add(value)
    assert histogram.buckets() == [(1, 1, 1), (2, 3, 2), (4, 7, 0), (8, 15, 3)]
    histogram.add(0)
    assert histogram.buckets()[0] == (0, 0, 1)


def test_repeats_are_exact_while_there_is_room() -> None:
    distinct = Distinct(capacity=1000)
    for value in [*range(1000), *range(0, 1000, 4)]:
        distinct.add(hash((value, 1, 2)))
    assert (distinct.exact, distinct.repeats) == (True, 250)


def test_repeats_beyond_it_are_estimated() -> None:
    distinct = Distinct(capacity=1000)
    for value in range(150_000):
        distinct.add(hash((value % 100_000,)))
    assert not distinct.exact
    assert len(distinct._kept) <= 1000
    assert abs(distinct.repeats - 50_000) < 10_000


def test_keys_that_are_alike_count_apart() -> None:
    distinct = Distinct()
    for value in range(-5000, 5000):
        distinct.add(value << 40)
        distinct.add(value)
    assert distinct.repeats == 1  # zero, twice
