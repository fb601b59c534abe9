from __future__ import annotations

import errno
import io
import os
import pty
import random
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import ConfigError, OutputError
from infer.core.jobs.writer import OrderedWriter, OutputFile


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rows_leave_in_order_whatever_order_they_come_in(memory_sink: Any) -> None:
    indices = list(range(200))
    random.Random(1).shuffle(indices)
    sink = memory_sink()
    writer = OrderedWriter(sink)
    for i in indices:
        writer.put(i, b"%d" % i)
        if i % 3 == 0:
            writer.flush()
        expected = b"".join(b"%d\n" % j for j in range(200))
        assert expected.startswith(sink.data)
    writer.finish()
    assert sink.data == b"".join(b"%d\n" % j for j in range(200))
    assert sink.finished
    assert (writer.num_written, writer.num_held, writer.bytes_held) == (200, 0, 0)


def test_a_row_is_flushed_as_soon_as_its_turn_comes(memory_sink: Any) -> None:
    sink = memory_sink()
    writer = OrderedWriter(sink)
    writer.put(1, b"one")
    writer.flush()
    assert (sink.data, writer.num_held, writer.bytes_held) == (b"", 1, 3)
    writer.put(0, b"zero")
    writer.flush()
    assert (sink.data, writer.num_held, writer.bytes_held) == (b"zero\none\n", 0, 0)


def test_doubled_and_missing_rows_are_bugs(memory_sink: Any) -> None:
    writer = OrderedWriter(memory_sink())
    writer.put(0, b"")
    with pytest.raises(AssertionError):
        writer.put(0, b"")
    writer.put(2, b"")
    with pytest.raises(AssertionError):
        writer.put(2, b"")
    with pytest.raises(AssertionError):
        writer.finish()


def test_a_file_appears_only_when_finished(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    sink = OutputFile(str(out))
    sink.write(b"a\n")
    assert (tmp_path / "out.jsonl.partial").read_bytes() == b"a\n"
    assert not out.exists()
    sink.write(b"b\n")
    sink.finish()
    sink.close()
    assert out.read_bytes() == b"a\nb\n"
    assert names(tmp_path) == ["out.jsonl"]


def test_an_unfinished_file_keeps_its_answers(tmp_path: Path) -> None:
    sink = OutputFile(str(tmp_path / "out"))
    sink.write(b"a\n")
    sink.close()
    sink.close()
    assert names(tmp_path) == ["out.partial"]
    with pytest.raises(ConfigError, match="--overwrite"):
        OutputFile(str(tmp_path / "out"))
    OutputFile(str(tmp_path / "out"), overwrite=True).close()


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    OutputFile(str(tmp_path / "out")).close()
    assert names(tmp_path) == []


def test_existing_files_are_refused_unless_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_bytes(b"old")
    with pytest.raises(ConfigError, match="--overwrite"):
        OutputFile(str(out))
    assert out.read_bytes() == b"old"
    sink = OutputFile(str(out), overwrite=True)
    sink.write(b"new")
    assert out.read_bytes() == b"old"  # until the new one is whole
    sink.finish()
    assert out.read_bytes() == b"new"


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"{}")
    (tmp_path / "hard").hardlink_to(data)
    (tmp_path / "soft").symlink_to(data)
    (tmp_path / "x.partial").symlink_to(data)
    for name in ("data", "hard", "soft", "x"):
        with pytest.raises(ConfigError, match="same file"):
            OutputFile(str(tmp_path / name), overwrite=True, input_status=data.stat())
    with data.open("ab") as stdout, pytest.raises(ConfigError, match="same file"):
        OutputFile("-", input_status=data.stat(), stdout=stdout)
    assert data.read_bytes() == b"{}"


def test_a_link_to_the_output_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    sink = OutputFile(str(tmp_path / "link"), overwrite=True)
    sink.write(b"new")
    sink.finish()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["no/such/folder/out", "."])
def test_impossible_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        OutputFile(str(tmp_path / name))


def test_what_is_no_regular_file_is_written_straight_through(tmp_path: Path) -> None:
    sink = OutputFile("/dev/null")
    sink.write(b"x")
    sink.finish()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    sink = OutputFile(str(fifo))
    sink.write(b"hello")
    assert os.read(reader, 100) == b"hello"
    sink.finish()
    sink.close()
    os.close(reader)
    assert names(tmp_path) == ["fifo"]


def test_a_full_disk_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = OutputFile(str(tmp_path / "out"))
    sink.write(b"first\n")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match=r"No space left.*out\.partial") as caught:
        sink.write(b"x")
    assert caught.value.exit_code == 74
    sink.close()
    assert (tmp_path / "out.partial").read_bytes() == b"first\n"


def test_a_reader_that_leaves_is_a_broken_pipe() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb", buffering=0) as stdout, pytest.raises(BrokenPipeError):
        OutputFile("-", stdout=stdout).write(b"x")


def test_a_non_blocking_pipe_gets_everything() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    got: list[bytes] = []
    import threading

    def drain() -> None:
        while data := os.read(read_end, 1000):
            got.append(data)

    thread = threading.Thread(target=drain)
    thread.start()
    with os.fdopen(write_end, "wb", buffering=0) as stdout:
        OutputFile("-", stdout=stdout).write(b"x" * 300_000)
    thread.join()
    os.close(read_end)
    assert sum(map(len, got)) == 300_000


def test_stdout_may_be_any_stream() -> None:
    stream = io.BytesIO()
    sink = OutputFile("-", stdout=stream)
    sink.write(b"x")
    sink.finish()
    sink.close()
    assert stream.getvalue() == b"x"


def test_a_terminal_gets_no_control_characters() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "wb", buffering=0) as stdout:
        sink = OutputFile("-", stdout=stdout)
        assert sink.is_terminal
        sink.write('{"a":"\x7f\x9b31m é"}\n'.encode())
    shown = os.read(master, 1000).decode()
    os.close(master)
    assert shown == '{"a":"\\u007f\\u009b31m é"}\r\n'
