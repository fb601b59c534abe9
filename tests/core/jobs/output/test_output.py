"""A job's output as files. Torn and lost files: ../test_recovery.py."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import pytest
import zstandard

from infer.core.errors import ConfigError, LockedError, OutputError
from infer.core.jobs.output import compression
from infer.core.jobs.output import output as output_module
from infer.core.jobs.output.output import JobOutput
from infer.core.jobs.output.sinks.sink import LineSink
from infer.core.jobs.output.writer import OrderedWriter
from infer.core.jobs.row import Row


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def begun(name: Path, **options: Any) -> JobOutput:
    output = JobOutput(str(name), **options)
    output.begin({})
    return output


def write(output: JobOutput, *rows: bytes) -> None:
    writer = OrderedWriter(output)
    for row in rows:
        writer.put(Row(writer.num_written + writer.num_held, row))
    writer.flush(force=True)


def test_a_file_appears_only_when_finished(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    output = begun(out)
    write(output, b"a")
    assert (tmp_path / "out.jsonl.partial").read_bytes() == b"a\n"
    assert not out.exists()
    write(output, b"b")
    output.finish()
    output.close()
    assert out.read_bytes() == b"a\nb\n"
    assert names(tmp_path) == ["out.jsonl"]
    assert output.sha256.hexdigest() == hashlib.sha256(b"a\nb\n").hexdigest()


def test_an_unfinished_file_keeps_its_answers(tmp_path: Path) -> None:
    output = begun(tmp_path / "out")
    write(output, b"a")
    output.close()
    output.close()
    assert names(tmp_path) == ["out.partial", "out.partial.journal"]
    assert (tmp_path / "out.partial").read_bytes() == b"a\n"


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    JobOutput(str(tmp_path / "out")).close()
    assert names(tmp_path) == []
    begun(tmp_path / "out", errors=str(tmp_path / "bad")).close()
    assert names(tmp_path) == []


@pytest.mark.parametrize("missing", [None, "out.partial", "out.partial.journal", "bad.partial"])
def test_looking_changes_nothing(tmp_path: Path, missing: str | None) -> None:
    output = begun(tmp_path / "out", errors=str(tmp_path / "bad"))
    write(output, b"a", b"b")
    output.close()
    if missing:
        (tmp_path / missing).unlink()
    before = contents(tmp_path)
    looking = JobOutput(str(tmp_path / "out"), errors=str(tmp_path / "bad"))
    try:
        recovered = looking.recover()
        assert recovered is None or missing is not None or recovered.commit.rows == 2
    except ConfigError as error:
        assert missing == "out.partial.journal"
        assert "--overwrite" in str(error)  # noqa: PT017
    looking.close()
    assert contents(tmp_path) == before


def test_the_files_of_an_unfinished_job_are_the_users_own(tmp_path: Path) -> None:
    output = begun(tmp_path / "out")
    write(output, b"a")
    assert (tmp_path / "out.partial.journal").stat().st_mode & 0o777 == 0o600
    output.close()


def test_an_empty_job_is_an_empty_file(tmp_path: Path) -> None:
    """Nothing to answer: the output was not even begun."""
    for suffix, kind in (("", "none"), (".gz", "gzip"), (".zst", "zstd")):
        output = JobOutput(str(tmp_path / f"out{suffix}"), sink=LineSink(kind), errors=str(tmp_path / "bad"))
        OrderedWriter(output).finish()
        output.finish()
        output.close()
    assert names(tmp_path) == ["bad", "out", "out.gz", "out.zst"]
    assert (tmp_path / "out").read_bytes() == (tmp_path / "bad").read_bytes() == b""
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == b""
    assert zstandard.ZstdDecompressor().decompressobj().decompress((tmp_path / "out.zst").read_bytes()) == b""


def test_an_empty_job_takes_nothing_over(tmp_path: Path) -> None:
    """What a killed run wrote before its first commit is no answer; it must not get into an output that has none."""
    (tmp_path / "out.partial").write_bytes(b"torn")
    (tmp_path / "bad.partial").write_bytes(b"torn")
    output = begun(tmp_path / "other")
    output.close()
    journal = tmp_path / "out.partial.journal"
    from infer.core.jobs.output.files import Files
    from infer.core.jobs.output.journal import Journal

    fd = os.open(journal, os.O_RDWR | os.O_CREAT)
    Journal(Files(), fd).begin({"sides": {"errors": {"path": str(tmp_path / "bad")}}})
    os.close(fd)
    output = JobOutput(str(tmp_path / "out"), errors=str(tmp_path / "bad"))
    recovered = output.recover()
    assert recovered is not None
    assert not recovered.holds_answers
    OrderedWriter(output).finish()
    output.finish()
    output.close()
    assert (tmp_path / "out").read_bytes() == (tmp_path / "bad").read_bytes() == b""


def test_a_second_run_is_refused_at_once(tmp_path: Path) -> None:
    first = JobOutput(str(tmp_path / "out"))
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for name in ("out", "link"):
        with pytest.raises(LockedError, match=f"process {os.getpid()} on ") as caught:
            JobOutput(str(tmp_path / name))
        assert caught.value.exit_code == 75
    first.close()
    JobOutput(str(tmp_path / "out")).close()
    assert names(tmp_path) == ["link"]


def test_the_lock_of_a_dead_run_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "out.partial.lock").write_text("process 1 on elsewhere")
    JobOutput(str(tmp_path / "out")).close()
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_frames_do_not_depend_on_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(compression, "FRAME_BYTES", 100)
    rows = [b"row %d" % i + b"x" * (i * 7 % 40) for i in range(60)]
    for every in (1, 2, 7, 60):
        output = begun(tmp_path / f"out{every}", sink=LineSink(kind))
        for start in range(0, 60, every):
            write(output, *rows[start : start + every])
        output.finish()
        output.close()
    made = {(tmp_path / f"out{every}").read_bytes() for every in (1, 2, 7, 60)}
    assert len(made) == 1
    data = made.pop()
    plain = b"".join(row + b"\n" for row in rows)
    if kind == "gzip":
        assert gzip.decompress(data) == plain
        assert data.count(b"\x1f\x8b\x08\x00\x00\x00\x00\x00") > 5  # no name, no time
    else:
        assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read() == plain


@pytest.mark.parametrize("fsync", ["interval", "always", "never"])
def test_when_data_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str) -> None:
    """never: not at all but for the header; interval: now and then; always: the data before the commit that tells of it."""
    monkeypatch.setattr(output_module, "COMMIT_EVERY", 0.0)
    synced: list[int] = []
    real = os.fsync
    output = begun(tmp_path / "out", fsync=fsync)
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), real(fd)))
    out, journal = (tmp_path / "out.partial").stat().st_ino, (tmp_path / "out.partial.journal").stat().st_ino
    for i in range(5):
        write(output, b"%d" % i)
    assert synced == {"never": [], "interval": [out, journal], "always": [out, journal] * 5}[fsync]
    output.close()


def test_a_full_disk_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = begun(tmp_path / "out")
    write(output, b"first")
    real = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match=r"out.*No space left.*room for 2 more bytes") as caught:
        write(output, b"x")
    assert caught.value.exit_code == 74
    output.close()
    monkeypatch.setattr(os, "write", real)
    assert (tmp_path / "out.partial").read_bytes() == b"first\n"
    again = JobOutput(str(tmp_path / "out"))
    recovered = again.recover()
    assert recovered is not None
    again.resume(recovered)
    write(again, b"x")
    again.finish()
    again.close()
    assert (tmp_path / "out").read_bytes() == b"first\nx\n"
