"""Records that are prepared beside the steps, as those with media are: the same bytes, and an engine that goes on meanwhile."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from infer.core.errors import EngineError
from infer.core.jobs.run import Window
from infer.core.jobs.tasks import GenerateTask

LINES = [b'{"prompt":"good %d","id":%d}' % (i, i) if i % 5 else b'{"prompt":%d}' % i for i in range(90)]
SCHEDULES: list[dict[str, Any]] = [
    {},
    {"chunk": 3},
    {"window": Window(records=3, batch=2, low_water=1)},
    {"window": Window(records=40, low_water=1), "engine": {"max_num_seqs": 50, "patience": lambda i: i * 13 % 11}},
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_same_bytes(run_job: Any, monkeypatch: pytest.MonkeyPatch, schedule: dict[str, Any]) -> None:
    wanted, before = run_job(b"\n".join(LINES))
    threads = set()
    prepare = GenerateTask.prepare

    def noted(self: GenerateTask, records: Any) -> Any:
        threads.add(threading.current_thread().name)
        return prepare(self, records)

    monkeypatch.setattr(GenerateTask, "waits", True)
    monkeypatch.setattr(GenerateTask, "prepare", noted)
    found, stats = run_job(b"\n".join(LINES), **schedule)
    assert found == wanted
    assert (stats.num_records, stats.num_failed) == (before.num_records, before.num_failed) == (90, 18)
    assert ("prepare" in threads) == bool(schedule.get("window"))  # else the first batch is all of it


def test_the_engine_goes_on_while_records_are_prepared(run_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second batch is not ready before the first one is answered: a run that waited for it would wait for ever."""
    answered = threading.Event()
    prepare, to_row, calls = GenerateTask.prepare, GenerateTask.to_row, []

    def slow(self: GenerateTask, records: Any) -> Any:
        calls.append(len(records))
        if len(calls) == 2:
            assert answered.wait(60)
        return prepare(self, records)

    def noted(self: GenerateTask, pending: Any, output: Any) -> Any:
        if pending.index == 1:
            answered.set()
        return to_row(self, pending, output)

    monkeypatch.setattr(GenerateTask, "waits", True)
    monkeypatch.setattr(GenerateTask, "prepare", slow)
    monkeypatch.setattr(GenerateTask, "to_row", noted)
    _, stats = run_job(b"\n".join(LINES), window=Window(batch=4, low_water=1000))
    assert stats.num_records == 90
    assert calls[0] == 4
    assert max(calls) <= 32


def test_what_ends_a_run_ends_it_from_there_too(run_job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, calls = GenerateTask.prepare, []

    def broken(self: GenerateTask, records: Any) -> Any:
        calls.append(records)
        if len(calls) == 3:
            raise EngineError("gone")
        return prepare(self, records)

    monkeypatch.setattr(GenerateTask, "waits", True)
    monkeypatch.setattr(GenerateTask, "prepare", broken)
    with pytest.raises(EngineError, match="gone"):
        run_job(b"\n".join(LINES), window=Window(batch=4))
