"""Counts of whole numbers, exact, in memory bounded by how many different ones there are."""

from __future__ import annotations

import math
from collections import Counter


class Histogram:
    """Counts of each number that came. The smallest, largest and so on are None while there are none."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.count = 0
        self.total = 0

    def add(self, value: int, times: int = 1) -> None:
        """One more number, or `times` more."""
        self._counts[value] += times
        self.count += times
        self.total += value * times

    @property
    def min(self) -> int | None:
        return min(self._counts, default=None)

    @property
    def max(self) -> int | None:
        return max(self._counts, default=None)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def percentile(self, percent: float) -> int | None:
        """The smallest number that at least `percent` of all are not above."""
        wanted = max(math.ceil(self.count * percent / 100), 1)
        seen = 0
        for value, times in sorted(self._counts.items()):
            seen += times
            if seen >= wanted:
                return value
        return None

    def to_json(self) -> dict[str, float | None]:
        """min, median, mean, p90, p99 and max."""
        mean = None if self.mean is None else round(self.mean, 1)
        middle = {"median": self.percentile(50), "mean": mean, "p90": self.percentile(90), "p99": self.percentile(99)}
        return {"min": self.min, **middle, "max": self.max}

    def buckets(self) -> list[tuple[int, int, int]]:
        """(smallest, largest, count) of 0, 1, 2-3, 4-7, 8-15 and so on, from the first that holds something to the last."""
        counts: Counter[int] = Counter()
        for value, times in self._counts.items():
            counts[value.bit_length()] += times
        bits = range(min(counts, default=0), max(counts, default=-1) + 1)
        return [((1 << b) >> 1, max((1 << b) - 1, 0), counts[b]) for b in bits]
