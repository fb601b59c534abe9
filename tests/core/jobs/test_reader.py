from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer.core.errors import ConfigError, InferError
from infer.core.jobs.reader import CHUNK_BYTES, InputFile, RecordReader, same_file
from infer.core.jobs.record import Record


def read(memory_source: Any, data: bytes, *, chunk: int = 1 << 20, limit: int = 100) -> tuple[list[Record], RecordReader]:
    reader = RecordReader(memory_source(data, chunk=chunk), limit)
    return list(reader), reader


def code(record: Record) -> str | None:
    return record.error.code if record.error else None


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b'{"a":1}\n{"a":2}\n', [1, 2]),
        (b'{"a":1}\n{"a":2}', [1, 2]),
        (b'{"a":1}\r\n{"a":2}\r\n', [1, 2]),
        (b'\n\n{"a":1}\n  \t\r\n\n{"a":2}\n\n', [1, 2]),
        (b'\xef\xbb\xbf{"a":1}\n{"a":2}', [1, 2]),
        (b'\xef\xbb\xbf\n{"a":1}', [1]),
        ('{"a":"\u2028\x85"}\n'.encode(), ["\u2028\x85"]),
        (b"", []),
        (b"\n", []),
        (b"\xef\xbb\xbf", []),
    ],
)
def test_lines(memory_source: Any, data: bytes, values: list[Any], chunk: int) -> None:
    records, reader = read(memory_source, data, chunk=chunk)
    assert [r.fields.get("a") for r in records] == values
    assert [r.index for r in records] == list(range(len(values)))
    assert reader.at_end
    assert reader.bytes_read == len(data)
    assert len(records) + reader.num_blank == len(data.splitlines() if b"\xe2" not in data else [1])


def test_only_the_first_line_may_have_a_bom(memory_source: Any) -> None:
    records, _ = read(memory_source, b'{"a":1}\n\xef\xbb\xbf{"a":2}\n')
    assert [code(r) for r in records] == [None, "invalid_json"]


def test_a_lone_carriage_return_ends_no_line(memory_source: Any) -> None:
    records, _ = read(memory_source, b'{"a":1}\r{"a":2}\n')
    assert [code(r) for r in records] == ["invalid_json"]


def test_index_counts_records_and_line_counts_lines(memory_source: Any) -> None:
    records, reader = read(memory_source, b"\n{}\n\n\nx\n{}")
    assert [(r.index, r.line) for r in records] == [(0, 2), (1, 5), (2, 6)]
    assert reader.num_blank == 3


@pytest.mark.parametrize("chunk", [1, 64, 1 << 20])
@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_length_limit_is_exact(memory_source: Any, chunk: int, end: bytes, bom: bytes) -> None:
    fits, over = b'{"a":"%s"}' % (b"x" * 92), b'{"a":"%s"}' % (b"x" * 93)
    assert len(fits) == 100
    records, reader = read(memory_source, bom + fits + b"\n" + over + b"\n" + fits + b"\n" + over + end, chunk=chunk)
    assert [code(r) for r in records] == [None, "line_too_long", None, "line_too_long"]
    assert reader.bytes_read == sum(r.size for r in records)


def test_a_long_line_of_blanks_is_blank(memory_source: Any) -> None:
    records, reader = read(memory_source, b" " * 500 + b"\n{}\n" + b" " * 500 + b"x", chunk=50)
    assert [code(r) for r in records] == [None, "line_too_long"]
    assert reader.num_blank == 1


def test_an_endless_line_is_skipped_in_little_memory() -> None:
    class Endless:
        """A line of 256 MiB, then a good one."""

        left = 1024

        def read(self, size: int) -> bytes:
            self.left -= 1
            return b"x" * CHUNK_BYTES if self.left > 0 else b"\n{}" if self.left == 0 else b""

        def ready(self) -> bool:
            return True

    tracemalloc.start()
    records = list(RecordReader(Endless(), 1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [code(r) for r in records] == ["line_too_long", None]
    assert peak < 8 << 20


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b" ", b"{}", b'{"a":1}', b"x", b"\xef\xbb\xbf", b"\xff", b"[" * 30])), st.integers(1, 9))
def test_chunks_do_not_matter(pieces: list[bytes], chunk: int) -> None:
    class Source:
        def __init__(self, size: int) -> None:
            self.data, self.size = b"".join(pieces), size

        def read(self, size: int) -> bytes:
            head, self.data = self.data[: self.size], self.data[self.size :]
            return head

        def ready(self) -> bool:
            return True

    def all_of(size: int) -> list[tuple[Any, ...]]:
        return [(r.index, r.line, r.size, r.fields, code(r)) for r in RecordReader(Source(size), 20)]

    assert all_of(chunk) == all_of(1 << 20)
    data = b"".join(pieces).removeprefix(b"\xef\xbb\xbf")
    assert len(all_of(chunk)) == sum(bool(line.strip()) for line in data.split(b"\n"))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ('"a"', None),
        ('""', None),
        ("7", None),
        ("-7", None),
        ("null", None),
        (str(2**53 - 1), None),
        (str(2**53), "invalid_value"),
        (str(-(2**53)), "invalid_value"),
        (str(2**70), "invalid_value"),
        ("1.0", "invalid_type"),
        ("true", "invalid_type"),
        ("[1]", "invalid_type"),
        ("{}", "invalid_type"),
    ],
)
def test_ids(value: str, error: str | None) -> None:
    record = Record.parse(0, 1, 1, b'{"id":%s}' % value.encode())
    if error is None:
        assert record.take_id() == record.fields["id"]
    else:
        with pytest.raises(InferError) as caught:
            record.take_id()
        assert caught.value.code == error  # type: ignore[attr-defined]


def test_take_stops_at_count_and_bytes(memory_source: Any) -> None:
    reader = RecordReader(memory_source(b"{}\n" * 10))
    assert len(reader.take(4, 1 << 20, wait=True)) == 4
    assert len(reader.take(100, 5, wait=True)) == 2
    assert len(reader.take(1, 0, wait=True)) == 0
    assert len(reader.take(100, 1 << 20, wait=True)) == 4
    assert reader.take(100, 1 << 20, wait=True) == []
    assert reader.at_end


def test_a_slow_pipe_does_not_block_when_told_not_to_wait() -> None:
    read_end, write_end = os.pipe()
    source = InputFile.__new__(InputFile)
    source.name, source.fd, source._regular = "pipe", read_end, False
    reader = RecordReader(source)
    assert reader.take(10, 1 << 20, wait=False) == []
    assert not reader.at_end
    os.write(write_end, b'{"a":1}\n{"a":')
    assert [r.fields for r in reader.take(10, 1 << 20, wait=True)] == [{"a": 1}]  # not held up by the second
    assert reader.take(10, 1 << 20, wait=False) == []
    timer = threading.Timer(0.05, lambda: (os.write(write_end, b"2}"), os.close(write_end)))
    timer.start()
    assert [r.fields for r in reader.take(10, 1 << 20, wait=True)] == [{"a": 2}]
    timer.join()
    assert reader.take(10, 1 << 20, wait=True) == []
    assert reader.at_end
    source.close()


def test_input_files(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a":1}\n')
    source = InputFile(str(path))
    assert source.size == 8
    assert source.ready()
    assert same_file(source.status, path)
    assert not same_file(source.status, tmp_path / "none")
    source.close()
    source.close()
    with pytest.raises(ConfigError, match="does not exist"):
        InputFile(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="is a folder"):
        InputFile(str(tmp_path))


def test_stdin_that_is_a_terminal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    with pytest.raises(ConfigError, match="terminal"):
        InputFile("-")
