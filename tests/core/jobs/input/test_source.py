"""Inputs by name, pattern and standard input, and those that cannot be opened."""

from __future__ import annotations

import contextlib
import gzip
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infer.core.errors import ConfigError, InferError
from infer.core.jobs.input.inputs import Inputs
from infer.core.jobs.input.source import InputFile, same_file


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a":1}\n')
    source = InputFile(str(path))
    assert (source.name, source.size, source.head) == (str(path), 8, b'{"a":1}\n')
    assert source.ready()
    assert same_file(source.status, path)
    assert not same_file(source.status, tmp_path / "none")
    assert source.read(3) + source.read(100) == b'{"a":1}\n'
    assert source.read(100) == source.read(100) == b""
    source.close()
    source.close()


def test_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        InputFile(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="is a folder"):
        InputFile(str(tmp_path))
    for name in ("reviews.jsonl", "reviews.json.partial"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"reviews.json' does not exist; did you mean 'reviews.jsonl'\?"):
        InputFile(str(tmp_path / "reviews.json"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be opened: Not a directory"):
        InputFile(str(tmp_path / "file" / "x"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_must_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0)
    os.mkfifo(tmp_path / "fifo", 0)
    for name in ("file", "fifo"):
        with pytest.raises(ConfigError, match="cannot be opened: Permission denied"):
            InputFile(str(tmp_path / name))


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.touch()
    source = InputFile(str(path))
    path.unlink()
    for _ in range(2):
        with pytest.raises(InferError, match="cannot be read: No such file"):
            source.read(1)


def test_stdin_that_is_a_terminal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    with pytest.raises(ConfigError, match="terminal"):
        InputFile("-")


@contextlib.contextmanager
def stdin_is(fd: int | None) -> Iterator[None]:
    saved = os.dup(0)
    if fd is None:
        os.close(0)
    else:
        os.dup2(fd, 0)
        os.close(fd)
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)


def test_stdin(tmp_path: Path) -> None:
    with stdin_is(None), pytest.raises(ConfigError, match="'stdin' cannot be opened"):
        InputFile("-")
    read_end, write_end = os.pipe()
    with stdin_is(read_end):
        source = InputFile("-")
        assert (source.name, source.size, source.ready()) == ("stdin", None, False)
        os.write(write_end, b"{}")
        os.close(write_end)
        assert source.ready()
        assert source.read(100) == b"{}"
        assert source.read(100) == b""
        source.close()
        os.fstat(0)  # it is not ours to close
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    with stdin_is(os.open(tmp_path / "in.jsonl.gz", os.O_RDONLY)):
        inputs = Inputs(["-"])
        assert inputs.size is None
        assert inputs.has(tmp_path / "in.jsonl.gz")
        assert inputs.sources[0].read(100) == b"{}\n"


def test_a_pipe_is_waited_for_and_never_before_it_must(tmp_path: Path) -> None:
    name = str(tmp_path / "fifo")
    os.mkfifo(name)
    source = InputFile(name)
    assert (source.size, source.head) == (None, b"")
    assert not source.ready()
    ready = []

    def write() -> None:
        with open(name, "wb", buffering=0) as pipe:  # noqa: PTH123
            pipe.write(b"one")
            ready.append(source.ready())

    timer = threading.Timer(0.05, write)
    timer.start()
    assert source.read(100) == b"one"
    timer.join()
    assert ready  # whatever it said, it did not wait
    assert source.read(100) == source.read(100) == b""
    assert source.ready()


class TestInputs:
    def test_size(self, tmp_path: Path) -> None:
        for name, data in (("a", b"12"), ("b", b"345"), ("c", b"\x1f\x8b..."), ("d.gz", b"plain")):
            (tmp_path / name).write_bytes(data)

        def size(*names: str) -> int | None:
            return Inputs([str(tmp_path / name) for name in names]).size

        assert size("a", "b", "d.gz") == 10
        assert size("a", "c") is None
        os.mkfifo(tmp_path / "pipe")
        assert size("a", "pipe") is None

    def test_has(self, tmp_path: Path) -> None:
        for name in "abc":
            (tmp_path / name).touch()
        (tmp_path / "link").symlink_to("b")
        inputs = Inputs([str(tmp_path / "a"), str(tmp_path / "link")])
        assert inputs.has(tmp_path / "b")
        assert inputs.has((tmp_path / "a").stat())
        assert not inputs.has(tmp_path / "c")
        assert not inputs.has(tmp_path / "none")

    def test_one_file_is_open_at_a_time(self, tmp_path: Path) -> None:
        names = [str(tmp_path / f"{i}") for i in range(50)]
        for name in names:
            Path(name).write_bytes(b"{}\n")

        def num_open() -> int:
            return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0

        before = num_open()
        inputs = Inputs(names)
        for source in inputs.sources:
            assert source.read(100) == b"{}\n"
            assert num_open() <= before + 1
            assert source.read(100) == b""
        assert num_open() == before
        inputs.sources[0].read(1)
        inputs.close()

    def test_a_missing_one_is_told_at_once(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(ConfigError, match=r"none.* does not exist"):
            Inputs([str(tmp_path / "a"), str(tmp_path / "none")])
