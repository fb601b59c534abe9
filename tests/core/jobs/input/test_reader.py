"""Lines of the input and their numbers."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from infer.core.errors import ConfigError, InferError
from infer.core.jobs.input.decompress import Decompressed
from infer.core.jobs.input.lines import CHUNK_BYTES
from infer.core.jobs.input.reader import RecordReader
from infer.core.jobs.input.selection import Selection, Shard
from infer.core.jobs.input.source import InputFile
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

        def ready(self, seconds: float = 0.0) -> bool:
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

        def ready(self, seconds: float = 0.0) -> bool:
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


def test_a_slow_pipe_does_not_block_when_told_not_to_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = RecordReader(InputFile(str(tmp_path / "fifo")))
    assert reader.take(10, 1 << 20, wait=False) == []  # nobody writes yet
    assert not reader.at_end
    write_end = os.open(tmp_path / "fifo", os.O_WRONLY)
    assert reader.take(10, 1 << 20, wait=False) == []
    os.write(write_end, b'{"a":1}\n{"a":')
    assert [r.fields for r in reader.take(10, 1 << 20, wait=True)] == [{"a": 1}]  # not held up by the second
    assert reader.take(10, 1 << 20, wait=False) == []
    timer = threading.Timer(0.05, lambda: (os.write(write_end, b"2}"), os.close(write_end)))
    timer.start()
    assert [r.fields for r in reader.take(10, 1 << 20, wait=True)] == [{"a": 2}]
    timer.join()
    assert reader.take(10, 1 << 20, wait=True) == []
    assert reader.at_end


# --- which records, and how they are recognized


def place(record: Record) -> tuple[Any, ...]:
    """All that must not depend on how lines are spread over files."""
    return (record.index, record.ordinal, record.fields, code(record), record.digest, record.chain, record.raw)


def chain_of(lines: list[bytes]) -> bytes:
    """The chain as its definition says."""
    chain = b""
    for line in lines:
        if line.strip():
            of_line = hashlib.blake2b(line, digest_size=16).digest()
            chain = hashlib.blake2b(chain + of_line, digest_size=16).digest()
    return chain


LINES = [b'{"a":%d}' % i if i % 4 else b"" for i in range(30)]
NUM_RECORDS = sum(bool(line) for line in LINES)


@pytest.mark.parametrize("chunk", [1, 1000])
def test_chain_and_digest(memory_source: Any, chunk: int) -> None:
    lines = [b'{"a":1}', b"  ", b'{"a":2}\r', b"x" * 150, b"y" * 100, b'{"a":3}']
    records, reader = read(memory_source, b"\xef\xbb\xbf" + b"\n".join(lines), chunk=chunk)
    assert [code(r) for r in records] == [None, None, "line_too_long", "invalid_json", None]
    assert [r.digest for r in records] == [hashlib.blake2b(line, digest_size=16).digest() for line in lines if line.strip()]
    assert [r.chain for r in records] == [chain_of(lines[: i + 1]) for i in (0, 2, 3, 4, 5)]
    assert reader.chain == records[-1].chain
    assert [r.index for r in records] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("selection", "wanted"),
    [
        (Selection(), range(NUM_RECORDS)),
        (Selection(offset=5), range(5, NUM_RECORDS)),
        (Selection(limit=5), range(5)),
        (Selection(offset=5, limit=5), range(5, 10)),
        (Selection(offset=5, limit=0), range(0)),
        (Selection(offset=1000), range(0)),
        (Selection(limit=1000), range(NUM_RECORDS)),
        (Selection(shard=Shard(1, 3)), range(1, NUM_RECORDS, 3)),
        (Selection(offset=5, limit=7, shard=Shard(1, 3)), range(7, 12, 3)),
    ],
)
def test_selection(memory_source: Any, selection: Selection, wanted: range) -> None:
    data = b"\n".join(LINES)
    written = [line for line in LINES if line]
    everything = list(RecordReader(memory_source(data)))
    reader = RecordReader(memory_source(data), selection=selection)
    records = list(reader)
    assert [r.index for r in records] == list(wanted)
    assert [r.ordinal for r in records] == list(range(len(wanted)))
    assert [(r.fields, r.line, r.index) for r in records] == [(r.fields, r.line, r.index) for r in everything if r.index in wanted]
    assert [r.chain for r in records] == [chain_of([written[r.index] for r in records[: i + 1]]) for i in range(len(records))]
    assert reader.at_end
    assert reader.num_selected == len(wanted)
    stop = NUM_RECORDS if selection.stop is None else min(selection.stop, NUM_RECORDS)
    assert reader.num_records == stop
    assert reader.input_chain == (everything[stop - 1].chain if stop else b"")
    assert reader.digests == b"".join(r.digest[:4] for r in records)


def test_what_is_not_selected_is_not_parsed(memory_source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    monkeypatch.setattr(Record, "read", lambda self, data: parsed.append(data))
    reader = RecordReader(memory_source(b"0\n1\n2\n3\n4\n5\n6\n7\n8"), selection=Selection(offset=3, shard=Shard(0, 2)))
    assert reader.skip(1) == 1
    assert len(reader.take(10, 100, wait=True)) == 2
    assert parsed == [b"6", b"8"]


def test_nothing_is_read_after_the_limit() -> None:
    class Endless:
        def read(self, size: int) -> bytes:
            assert not reader.at_end
            return b"{}\n"

        def ready(self, seconds: float = 0.0) -> bool:
            return True

    reader = RecordReader(Endless(), selection=Selection(offset=3, limit=4))
    assert [r.index for r in reader] == [3, 4, 5, 6]
    reader = RecordReader(Endless(), selection=Selection(limit=0))
    assert reader.at_end


@pytest.mark.parametrize("text", ["", "1", "/", "1/", "/2", "2/2", "-1/2", "0/0", "a/b", "1/2/3", "1.0/2", " 0/2", "²/3"])
def test_no_shards(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not I/N|counted from 0"):
        Shard.parse(text)


def test_shards() -> None:
    assert Shard.parse("3/12") == Shard(3, 12)
    assert str(Shard(3, 12)) == "3/12"
    taken = [i for k in range(5) for i in range(100) if i in Selection(3, 80, Shard(k, 5))]
    assert sorted(taken) == list(range(3, 83))


def test_raw_lines_are_kept_if_asked(memory_source: Any) -> None:
    data = b"\xef\xbb\xbf{}\r\n\xff\n" + b"x" * 200
    assert [r.raw for r in RecordReader(memory_source(data), 100, keep_raw=True)] == [b"{}\r", b"\xff", b""]
    assert [r.raw for r in RecordReader(memory_source(data), 100)] == [None] * 3


def test_several_inputs_are_one(memory_source: Any) -> None:
    files = [b"\xef\xbb\xbf{}", b"", b"\n\n", b"\xef\xbb\xbf{}\n{}\n", b"{}"]
    sources = [memory_source(data) for data in files]
    for i, source in enumerate(sources):
        source.name = f"f{i}"
    reader = RecordReader(sources)
    records = list(reader)
    assert [(r.index, r.source, r.line, code(r)) for r in records] == [
        (0, "f0", 1, None),
        (1, "f3", 1, None),
        (2, "f3", 2, None),
        (3, "f4", 1, None),
    ]
    assert (reader.num_blank, reader.bytes_read) == (2, sum(map(len, files)))
    assert [r.source for r in RecordReader([memory_source(b"{}")])] == [""]
    assert list(RecordReader([])) == []


pieces = st.sampled_from([b"", b" ", b"{}", b'{"a":1}', b"x", b"\xff", b"[" * 30, b'{"b":2}\r', b'{"a":"\xe2\x80\xa8"}'])
selections = st.builds(
    Selection, st.integers(0, 5), st.none() | st.integers(0, 20), st.sampled_from([Shard(0, 1), Shard(0, 2), Shard(2, 3), Shard(1, 4)])
)
packings: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "gzip": gzip.compress,
    "members": lambda data: b"".join(gzip.compress(data[i : i + 7]) for i in range(0, max(len(data), 1), 7)),
    "zstd": zstandard.compress,
    "frames": lambda data: b"".join(zstandard.compress(data[i : i + 7]) for i in range(0, max(len(data), 1), 7)),
}


@given(
    st.lists(st.tuples(st.lists(pieces, max_size=8), st.booleans(), st.sampled_from(sorted(packings)))),
    st.integers(1, 40),
    selections,
)
def test_how_lines_are_spread_over_files_does_not_matter(
    memory_source: Any, files: list[tuple[list[bytes], bool, str]], chunk: int, selection: Selection
) -> None:
    def read_all(sources: list[Any]) -> tuple[list[Any], bytes, int]:
        reader = RecordReader(sources, 20, selection=selection, keep_raw=True)
        return [place(r) for r in reader], reader.chain, reader.num_records

    contents = [packings[packing](b"\n".join(lines) + b"\n" * newline) for lines, newline, packing in files]
    one = memory_source(b"\n".join(line for lines, _, _ in files for line in lines))
    expected = read_all([one])
    assert read_all([Decompressed(memory_source(data, chunk=chunk)) for data in contents]) == expected
    if selection == Selection():
        assert expected[1] == chain_of([line for lines, _, _ in files for line in lines])


@given(st.lists(pieces, max_size=30), st.integers(1, 40), selections, st.integers(0, 12), st.integers(0, 12))
def test_skipping_is_reading(memory_source: Any, lines: list[bytes], chunk: int, selection: Selection, count: int, more: int) -> None:
    def reader() -> RecordReader:
        return RecordReader(memory_source(b"\n".join(lines), chunk=chunk), 20, selection=selection)

    def state(r: RecordReader) -> tuple[Any, ...]:
        return (r.chain, r.num_records, r.num_selected, r.num_blank, r.bytes_read, r.at_end)

    read, skipped = reader(), reader()
    first = [record for _ in range(count + more) for record in read.take(1, 1, wait=True)]
    assert skipped.skip(count) + skipped.skip(more) == len(first)
    if len(first) == count + more:
        assert state(skipped) == state(read)
        assert skipped.chain == (first[-1].chain if first else b"")
    assert [(place(r), r.line, r.size) for r in skipped] == [(place(r), r.line, r.size) for r in read]
    assert state(skipped) == state(read)


def test_a_failing_input_gives_all_it_has_first() -> None:
    class Failing:
        chunks = [b"{}\n{}\n", b"{}\n{"]  # noqa: RUF012

        def read(self, size: int) -> bytes:
            if not self.chunks:
                raise InferError("broken")
            return self.chunks.pop(0)

        def ready(self, seconds: float = 0.0) -> bool:
            return True

    reader = RecordReader(Failing())
    assert len(reader.take(100, 1 << 20, wait=True)) == 3
    assert reader.take(100, 1 << 20, wait=False) == []  # there may be work left to do
    assert not reader.at_end
    for _ in range(2):
        with pytest.raises(InferError, match="broken"):
            reader.take(100, 1 << 20, wait=True)
    with pytest.raises(InferError, match="broken"):
        reader.skip(1)
    empty = Failing()
    empty.chunks = []
    with pytest.raises(InferError, match="broken"):
        RecordReader(empty).take(1, 1, wait=False)  # before anything is loaded
