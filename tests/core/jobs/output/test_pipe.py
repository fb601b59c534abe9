"""The output that is no file."""

from __future__ import annotations

import errno
import io
import os
import pty
import threading
from pathlib import Path

import pytest

from infer.core.errors import OutputError
from infer.core.jobs.output.opening import open_output
from infer.core.jobs.output.pipe import StraightOutput
from infer.core.jobs.row import Row


def straight(stdout: object) -> StraightOutput:
    output = open_output("-", inputs=[], stdout=stdout)  # type: ignore[arg-type]
    assert isinstance(output, StraightOutput)
    return output


def test_what_is_no_regular_file_is_written_straight_through(tmp_path: Path) -> None:
    output = open_output("/dev/null", inputs=[])
    assert isinstance(output, StraightOutput)
    output.write([Row(0, b"x")])
    output.finish()
    output.close()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    output = open_output(str(fifo), inputs=[])
    output.write([Row(0, b"hello"), Row(1, b"you")])
    assert os.read(reader, 100) == b"hello\nyou\n"
    output.finish()
    output.close()
    os.close(reader)
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]


def test_a_full_device_is_an_output_error() -> None:
    output = open_output("/dev/full", inputs=[])
    with pytest.raises(OutputError, match="No space left") as caught:
        output.write([Row(0, b"x")])
    assert caught.value.exit_code == 74
    output.close()


def test_a_reader_that_leaves_is_a_broken_pipe() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb", buffering=0) as stdout, pytest.raises(BrokenPipeError):
        straight(stdout).write([Row(0, b"x")])


def test_a_non_blocking_pipe_gets_everything() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    got: list[bytes] = []

    def drain() -> None:
        while data := os.read(read_end, 1000):
            got.append(data)

    thread = threading.Thread(target=drain)
    thread.start()
    with os.fdopen(write_end, "wb", buffering=0) as stdout:
        straight(stdout).write([Row(0, b"x" * 300_000)])
    thread.join()
    os.close(read_end)
    assert sum(map(len, got)) == 300_001


def test_stdout_may_be_any_stream() -> None:
    stream = io.BytesIO()
    output = straight(stream)
    output.write([Row(0, b"x")])
    assert output.num_rows == 1
    output.finish()
    output.close()
    assert stream.getvalue() == b"x\n"


def test_a_terminal_gets_no_control_characters() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "wb", buffering=0) as stdout:
        output = straight(stdout)
        assert output.is_terminal
        output.write([Row(0, '{"a":"\x7f\x9b31m é"}'.encode())])
    shown = os.read(master, 1000).decode()
    os.close(master)
    assert shown == '{"a":"\\u007f\\u009b31m é"}\r\n'


def test_what_is_said_only_on_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As network file systems do."""
    fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    output = StraightOutput("stdout", fd, owned=False)
    output.write([Row(0, b"a")])
    real = os.close

    def close(fd: int) -> None:
        real(fd)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        with pytest.raises(OutputError, match="'stdout' cannot be written: Disk quota exceeded"):
            output.finish()
    output.finish()
    os.close(fd)
