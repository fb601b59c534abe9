"""One slow record at the head of a long file: what is finished behind it waits on disk, not in memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psutil
import pytest

from infer.core.errors import EngineError
from infer.core.jobs.input.lines import LineReader
from infer.core.jobs.input.source import InputFile
from infer.core.jobs.stats import JobStats

TOTAL = 60_000
_INDEX = re.compile(rb'\{"index":(\d+),')


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.slow
def test_a_slow_head_of_the_line_costs_no_memory(attempt: Any, tmp_path: Path) -> None:
    with (tmp_path / "in").open("wb") as data:
        data.writelines(b'{"prompt":"p%d"}\n' % i for i in range(TOTAL))
    out, journal = tmp_path / "out", tmp_path / "out.partial.journal"
    waiting: list[int] = []  # memory while records wait for the first

    def look(stats: JobStats) -> None:
        if stats.num_records >= TOTAL // 10 and not waiting:
            waiting.append(resident())
        if stats.num_records == TOTAL - 1:
            waiting.append(resident())
            raise EngineError("stop")

    stuck = {"max_num_seqs": 257, "patience": lambda index: 10**9 if index == 0 else 0}
    with pytest.raises(EngineError):
        attempt(tmp_path / "in", out, engine=stuck, between_steps=look)
    assert (tmp_path / "out.partial").stat().st_size == 0
    on_disk = journal.stat().st_size
    assert on_disk > 100 * TOTAL

    before = resident()
    resumed: list[int] = []
    slow = {"patience": lambda index: 3}
    made = attempt(tmp_path / "in", out, resume=True, engine=slow, between_steps=lambda stats: resumed.append(resident()))
    assert (made.stats.num_resumed, made.stats.num_records) == (TOTAL - 1, TOTAL)
    assert made.engine.stats.num_steps <= 5

    rows = LineReader(InputFile(str(out)))
    for expected in range(TOTAL):
        row = rows.next()
        assert row is not None
        found = _INDEX.match(row.data or b"")
        assert found is not None
        assert int(found[1]) == expected
    assert rows.next() is None
    while_waiting, when_resumed = waiting[1] - waiting[0], max(resumed) - before
    print(f"{on_disk >> 20} MiB on disk, in memory +{while_waiting >> 20} MiB while waiting, +{when_resumed >> 20} resumed")
    assert while_waiting < 8 << 20
    assert when_resumed < 16 << 20
