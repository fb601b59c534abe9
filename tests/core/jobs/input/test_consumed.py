"""Input that changes under a run: it is noticed, nothing is published, and what was answered is kept for the input that was."""

from __future__ import annotations

import gzip
import os
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from infer.core.errors import ConfigError, InferError
from infer.core.jobs.input.source import InputFile
from infer.core.jobs.output import output as output_module
from infer.core.jobs.stats import JobStats

NUM = 900  # of some 1.8 MB: several pieces are read
CHANGED = "changed under the run"


def line(i: int) -> bytes:
    return b'{"prompt":"p%d","pad":"%s"}\n' % (i, random.Random(i).randbytes(1000).hex().encode())


LINES = b"".join(map(line, range(NUM)))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "COMMIT_EVERY", 0.0)


@pytest.fixture(scope="module")
def whole(attempt: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "in").write_bytes(LINES)
    attempt(folder / "in", folder / "out")
    return (folder / "out").read_bytes()


def when(count: int, change: Callable[[], object]) -> Callable[[JobStats], None]:
    """Changes once, when so many records are done."""
    done = []

    def between_steps(stats: JobStats) -> None:
        if stats.num_records >= count and not done:
            done.append(change())

    return between_steps


def cut(path: Path) -> None:
    """In the middle of a line that is not read yet."""
    os.truncate(path, len(LINES) * 9 // 10 + 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def rewrite(path: Path) -> None:
    """In place, as long as it was, with the time it had."""
    status = path.stat()
    path.write_bytes(LINES.replace(b'"p', b'"q'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def one_byte(path: Path) -> None:
    """Of a line that was answered long ago."""
    with path.open("r+b") as opened:
        opened.seek(LINES.index(b'"p3"') + 1)
        opened.write(b"q")


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(LINES.replace(b'"p', b'"q'))
    path.with_name("new").rename(path)


def rotate(path: Path) -> None:
    """Copied and emptied, and grown again beyond what was read."""
    path.write_bytes(b"")
    path.write_bytes(LINES[::-1] + LINES)


CHANGES = [cut, empty, rewrite, one_byte, replace, rotate]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("at", [1, 500, NUM - 1])
def test_a_change_is_noticed_and_nothing_lost(attempt: Any, whole: bytes, tmp_path: Path, change: Callable[[Path], None], at: int) -> None:
    path, out = tmp_path / "in", tmp_path / "out"
    path.write_bytes(LINES)
    if (change, at) == (cut, NUM - 1):
        change = empty  # the rest was read long ago
    with pytest.raises(InferError, match=rf"'{re.escape(str(path))}' {CHANGED}") as caught:
        attempt(path, out, between_steps=when(at, lambda: change(path)))
    assert not isinstance(caught.value, ConfigError)
    assert not out.exists()
    kept = (tmp_path / "out.partial").read_bytes()
    assert kept.count(b"\n") >= at
    if path.read_bytes() != LINES:
        with pytest.raises(ConfigError, match="the input changed"):
            attempt(path, out, resume=True)
    path.write_bytes(LINES)
    made = attempt(path, out, resume=True)
    assert made.stats.num_resumed >= at
    assert out.read_bytes() == whole
    assert whole.startswith(kept)


def appended(path: Path) -> None:
    with path.open("ab") as opened:
        opened.write(line(NUM) + b'{"prompt":"half a li')


def touched(path: Path) -> None:
    path.touch()
    path.chmod(0o600)


def copied(path: Path) -> None:
    """Another file with the same bytes."""
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").rename(path)


@pytest.mark.parametrize("change", [appended, touched, copied, Path.unlink])
@pytest.mark.parametrize("at", [1, 500, NUM - 1])
def test_what_was_read_is_still_there(attempt: Any, whole: bytes, tmp_path: Path, change: Callable[[Path], None], at: int) -> None:
    """The answers are those to the file as it was when the run began."""
    path, out = tmp_path / "in", tmp_path / "out"
    path.write_bytes(LINES)
    attempt(path, out, between_steps=when(at, lambda: change(path)))
    assert out.read_bytes() == whole


def test_a_file_that_others_append_to_all_the_time(attempt: Any, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(LINES)

    def grow(stats: JobStats) -> None:
        with path.open("ab") as opened:
            opened.write(b"x")

    attempt(path, tmp_path / "out", between_steps=grow)
    assert (tmp_path / "out").read_bytes() == whole


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("at", [1, NUM - 1])
def test_compressed_input(attempt: Any, whole: bytes, tmp_path: Path, pack: Callable[[bytes], bytes], at: int) -> None:
    path, out = tmp_path / "in", tmp_path / "out"
    data = pack(LINES)
    changes: list[Callable[[], object]] = [
        lambda: os.truncate(path, len(data) - 2000),
        lambda: path.write_bytes(pack(LINES.replace(b'"p', b'"q'))),
        lambda: path.write_bytes(data[:1000] + bytes(len(data) - 1000)),
    ]
    for change in changes:
        path.write_bytes(data)
        with pytest.raises(InferError, match=CHANGED):
            attempt(path, out, overwrite=True, between_steps=when(at, change))
        assert not out.exists()
    path.write_bytes(data)
    attempt(path, out, resume=True)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("change", [empty, one_byte, replace])
def test_one_of_several_inputs(attempt: Any, whole: bytes, tmp_path: Path, which: int, change: Callable[[Path], None]) -> None:
    """One that was read, that is being read, that is to be read."""
    third = NUM // 3
    paths = [tmp_path / f"in{i}" for i in range(3)]
    parts = [b"".join(map(line, range(third * i, third * (i + 1)))) for i in range(3)]
    for path, data in zip(paths, parts, strict=True):
        path.write_bytes(data)

    def change_one() -> None:
        if change is one_byte:
            paths[which].write_bytes(parts[which].replace(b"p%d" % (third * which + 3), b"q%d" % (third * which + 3)))
        else:
            change(paths[which])

    with pytest.raises(InferError, match=rf"'{paths[which]}' {CHANGED}"):
        attempt(paths, tmp_path / "out", between_steps=when(third + 10, change_one))
    assert not (tmp_path / "out").exists()
    paths[which].write_bytes(parts[which])
    attempt(paths, tmp_path / "out", resume=True)
    assert (tmp_path / "out").read_bytes() == whole


def test_only_what_was_read_counts(attempt: Any, tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(LINES)

    def change() -> None:
        path.write_bytes(LINES[: len(LINES) // 2])

    attempt(path, tmp_path / "out", limit=20, between_steps=when(1, change))
    assert (tmp_path / "out").read_bytes().count(b"\n") == 20


def test_a_shorter_file_is_not_resumed(attempt: Any, whole: bytes, tmp_path: Path) -> None:
    """Though all that was answered is in it: half an input is no input."""
    path, out = tmp_path / "in", tmp_path / "out"
    path.write_bytes(LINES)
    with pytest.raises(InferError, match=CHANGED):
        attempt(path, out, between_steps=when(1, lambda: cut(path)))
    os.truncate(path, path.read_bytes().rindex(b"\n") + 1)
    with pytest.raises(ConfigError, match=r"the input changed: .* bytes.*--resume-force"):
        attempt(path, out, resume=True)
    attempt(path, out, resume=True, resume_force=True)
    assert whole.startswith(out.read_bytes())


def read_all(source: InputFile) -> bytes:
    data = b""
    while piece := source.read(1 << 20):
        data += piece
    return data


def test_standard_input_from_a_file(tmp_path: Path) -> None:
    """It has no name, and may stand anywhere in the file."""
    path = tmp_path / "in"
    for change in (None, *CHANGES):
        path.write_bytes(LINES)
        with path.open("rb") as opened:
            opened.seek(100)
            saved = os.dup(0)
            os.dup2(opened.fileno(), 0)
            try:
                source = InputFile("-")
                data = source.read(10_000)
                if change is None:
                    data += read_all(source)
                    source.check()
                    assert data == LINES[100:]
                elif change is not replace:  # what has the name now is another file
                    change(path)
                    with pytest.raises(InferError, match=f"'stdin' {CHANGED}"):
                        read_all(source)
                    with pytest.raises(InferError, match=f"'stdin' {CHANGED}"):
                        source.read(1)
            finally:
                os.dup2(saved, 0)
                os.close(saved)


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="no /proc here")
def test_files_that_do_not_say_how_long_they_are() -> None:
    source = InputFile("/proc/self/limits")
    data = read_all(source)
    source.check()
    assert data.count(b"\n") == Path("/proc/self/limits").read_bytes().count(b"\n")


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen(["sh", "-c", f"echo a > {tmp_path / 'pipe'}"])
    source = InputFile(str(tmp_path / "pipe"))
    assert source.read(100) == b"a\n"
    assert source.read(100) == b""
    source.check()
    assert writer.wait() == 0
