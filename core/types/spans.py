"""Spans: runs of a prompt's tokens that see each other in both directions, in a model that is causal otherwise.

tokens     [ t t t | i i i i | t t | i i i i | t ]
bounds             (3,     7)      (9,    13)

A step computes all that is left of a span: its tokens see what is stored of those behind them. So what is kept of any of them depends on
all of them. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Spans:
    """
    Args:
        bounds: first token of each and the one behind its last, in order; they do not overlap, and may touch.
        windowed: tokens see as far back within their span as a sliding window lets them; else to its beginning.
    """

    bounds: tuple[tuple[int, int], ...]
    windowed: bool

    @property
    def end(self) -> int:
        return self.bounds[-1][1]

    @property
    def longest(self) -> int:
        """Tokens of the longest one."""
        return max(stop - start for start, stop in self.bounds)

    def around(self, place: int) -> tuple[int, int]:
        """Bounds of the span that would be cut in two before token `place`; (place, place) where none would be."""
        return next(((start, stop) for start, stop in self.bounds if start < place < stop), (place, place))

    def count(self, computed: int, count: int, most: int) -> int:
        """How many tokens behind `computed` a step takes that should take `count` and can take `most`: 0 where a span has no room in it."""
        start, stop = self.around(computed + count)
        if start > computed:
            return start - computed
        return stop - computed if stop - computed <= most else 0

    def seen(self, start: int, stop: int) -> NDArray[np.int32]:
        """[tokens, 2], of tokens `start` to `stop`: see `kernels.ops.AttentionMeta.spans`."""
        found = np.repeat(np.arange(start, stop, dtype=np.int32)[:, None], 2, axis=1)
        for first, end in self.bounds:
            inside = slice(max(first - start, 0), max(end - start, 0))
            found[inside, 1] = end - 1
            if not self.windowed:
                found[inside, 0] = first
        return found


def runs_of(rows: Iterable[NDArray[np.int64]]) -> tuple[tuple[int, int], ...]:
    """Bounds of the longest runs of neighbouring tokens among `rows`, those of one alone left out."""
    every = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *rows]))
    runs = np.split(every, np.flatnonzero(np.diff(every) != 1) + 1)
    return tuple((int(run[0]), int(run[-1]) + 1) for run in runs if len(run) > 1)
