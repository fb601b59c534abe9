"""Which decodes of a step share what, from their block tables alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infer.core.memory.prefixes import PrefixGroups, prefix_groups

BLOCK_SIZE = 4


def groups(lens: list[int], alike: dict[int, tuple[list[int], int]], counts: list[int] | None = None, **more: float) -> PrefixGroups | None:
    """Of sequences of so many tokens; `alike`: who has the same blocks as whom, and how many."""
    tables = np.arange(1, 1 + len(lens) * 200, dtype=np.int32).reshape(len(lens), 200)
    for first, (others, blocks) in alike.items():
        tables[others, :blocks] = tables[first, :blocks]
    starts = np.cumsum([0, *(counts or [1] * len(lens))]).astype(np.int32)
    return prefix_groups(tables, np.array(lens, dtype=np.int32), starts, BLOCK_SIZE, 8, **{"spared": 0, **more})  # type: ignore[arg-type]


def told(found: PrefixGroups | None) -> list[tuple[list[int], int]]:
    assert found is not None
    parts: list[NDArray[np.int32]] = np.split(found.members, found.starts[1:-1])
    pairs = [(part.tolist(), length) for part, length in zip(parts, found.lengths.tolist(), strict=True)]
    shared = {row: length for rows, length in pairs for row in rows}
    assert found.shared.tolist() == [shared.get(row, 0) for row in range(len(found.shared))]
    return pairs


def test_groups() -> None:
    """Whole blocks before a row's own token, of decodes alone, however wide the tables are."""
    assert groups([90] * 4, {}) is None
    assert told(groups([90, 50, 30, 90], {1: ([3], 5), 0: ([2], 50)})) == [([0, 2], 28), ([1, 3], 20)]
    assert told(groups([29, 33], {0: ([1], 50)})) == [([0, 1], 28)]
    assert told(groups([28, 33], {0: ([1], 50)})) == [([0, 1], 24)]
    assert groups([30, 30], {0: ([1], 1)}) is None
    assert groups([30, 30], {0: ([1], 7)}, [1, 3]) is None
    for blocks in (63, 64, 65, 150):
        assert told(groups([700, 790, 800], {0: ([2], blocks)})) == [([0, 2], 4 * blocks)]


def test_of_too_many_groups_those_that_spare_most_are_kept() -> None:
    lens, alike = [90] * 8, {0: ([1], 5), 2: ([3, 4], 4), 5: ([6, 7], 20)}
    assert len(told(groups(lens, alike, most=3))) == 3
    assert sorted(told(groups(lens, alike, most=2))) == [([2, 3, 4], 16), ([5, 6, 7], 80)]


def test_little_is_not_worth_it() -> None:
    """20 of 200 keys."""
    assert told(groups([100, 100], {0: ([1], 5)}, spared=0.1)) == [([0, 1], 20)]
    assert groups([100, 100], {0: ([1], 5)}, spared=0.11) is None
    assert groups([100, 100, 100], {0: ([1], 5)}, spared=0.1) is None
