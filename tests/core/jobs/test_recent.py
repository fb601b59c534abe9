"""Ids that came before, known in bounded memory."""

from __future__ import annotations

from infer.core.jobs.recent import Recent


def test_what_came_before_is_known() -> None:
    recent = Recent()
    assert [recent.add(key) for key in ("a", "b", "a", "c", "b", "a")] == [False, False, True, False, True, True]


def test_memory_is_bounded_and_the_near_past_is_kept() -> None:
    recent = Recent()
    found = sum(recent.add(str(i)) for i in range(100_000))
    assert found == 0
    size = recent._table.buffer_info()[1]
    found = sum(recent.add(str(i)) for i in range(200_000))
    assert 99_000 < found <= 100_000
    assert recent._table.buffer_info()[1] == size
