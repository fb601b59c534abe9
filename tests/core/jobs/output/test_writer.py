"""Rows in input order, whatever the order of answers."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from infer.core.jobs.output import output as output_module
from infer.core.jobs.output import writer as writer_module
from infer.core.jobs.output.output import JobOutput
from infer.core.jobs.output.writer import OrderedWriter
from infer.core.jobs.row import Row


def test_rows_leave_in_order_whatever_order_they_come_in(memory_output: Any) -> None:
    indices = list(range(200))
    random.Random(1).shuffle(indices)
    output = memory_output()
    writer = OrderedWriter(output)
    for i in indices:
        writer.put(Row(i, b"%d" % i))
        if i % 3 == 0:
            writer.flush()
        expected = b"".join(b"%d\n" % j for j in range(200))
        assert expected.startswith(output.data)
    writer.finish()
    assert output.data == b"".join(b"%d\n" % j for j in range(200))
    assert (writer.num_written, writer.num_held, writer.bytes_held) == (200, 0, 0)


def test_a_row_is_flushed_as_soon_as_its_turn_comes(memory_output: Any) -> None:
    output = memory_output()
    writer = OrderedWriter(output)
    writer.put(Row(1, b"one"))
    writer.flush()
    assert (output.data, writer.num_held, writer.bytes_held) == (b"", 1, 3)
    writer.put(Row(0, b"zero"))
    writer.flush()
    assert (output.data, writer.num_held, writer.bytes_held) == (b"zero\none\n", 0, 0)


def test_doubled_and_missing_rows_are_bugs(memory_output: Any) -> None:
    writer = OrderedWriter(memory_output())
    writer.put(Row(0, b""))
    with pytest.raises(AssertionError):
        writer.put(Row(0, b""))
    writer.flush()
    with pytest.raises(AssertionError):
        writer.put(Row(0, b""))
    writer.put(Row(2, b""))
    with pytest.raises(AssertionError):
        writer.put(Row(2, b""))
    with pytest.raises(AssertionError):
        writer.finish()


def test_rows_are_fresh_until_a_checkpoint_takes_them(memory_output: Any) -> None:
    class Slow(memory_output):
        """Too early, every other time."""

        calls: list[tuple[list[int], bool]] = []  # noqa: RUF012

        def checkpoint(self, fresh: Iterable[Row], *, force: bool = False) -> bool:
            self.calls.append(([row.ordinal for row in fresh], force))
            return len(self.calls) % 2 == 0

    output = Slow()
    writer = OrderedWriter(output)
    for i in (1, 0, 2):
        writer.put(Row(i, b"x"))
        writer.flush()
    writer.flush()  # nothing new, but the last row still waits
    writer.finish()
    assert output.calls == [([1], False), ([1, 0], False), ([2], False), ([2], False), ([], True)]


def test_a_long_queue_is_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "HELD_ROWS", 10)
    monkeypatch.setattr(output_module, "COMMIT_EVERY", 0.0)
    output = JobOutput(str(tmp_path / "out"))
    output.begin({})
    writer = OrderedWriter(output)
    for i in range(1, 100):
        writer.put(Row(i, b"%d" % i))
        writer.flush()
        assert writer.num_held <= 11
    with pytest.raises(AssertionError, match="earlier"):
        writer.put(Row(5, b"5"))
    assert output.num_rows == 0
    writer.put(Row(0, b"0"))
    writer.finish()
    assert (writer.num_held, writer.bytes_held, len(output.spilled)) == (0, 0, 0)
    output.finish()
    output.close()
    assert (tmp_path / "out").read_bytes() == b"".join(b"%d\n" % i for i in range(100))


def test_few_but_long_rows_are_kept_on_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "HELD_BYTES", 1000)
    monkeypatch.setattr(output_module, "COMMIT_EVERY", 0.0)
    output = JobOutput(str(tmp_path / "out"))
    output.begin({})
    writer = OrderedWriter(output)
    for i in range(1, 50):
        writer.put(Row(i, b"x" * 300, error_line=b"e" * 100))
        writer.flush()
        assert writer.bytes_held <= 1400
    output.close()
