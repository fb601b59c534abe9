"""Batches are bounded and in order."""

from __future__ import annotations

from infer.core.intake.batches import BATCH_CHARS, in_batches


def test_batches_are_bounded_and_hold_everything_in_order() -> None:
    sizes = [BATCH_CHARS // 3] * 7 + [2 * BATCH_CHARS, 0, 5]
    items = list(enumerate(sizes))
    batches = list(in_batches(items, lambda item: item[1]))
    assert [item for batch in batches for item in batch] == items
    assert all(len(batch) == 1 or sum(size for _, size in batch) <= BATCH_CHARS for batch in batches)
    assert [len(batch) for batch in batches] == [3, 3, 1, 1, 2]


def test_nothing_is_no_batch() -> None:
    assert list(in_batches([], len)) == []
