"""Locks where there are none, and lock files that are something else. Two runs at once: tests/cli/test_lock.py."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infer.core.errors import ConfigError, LockedError, OutputError
from infer.core.jobs.output.lock import FileLock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.partial.lock"


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int) -> None:
    """It is no other run: the run goes on, and says what it cannot know. Other runs on this machine are kept away all the same."""
    without_locks(monkeypatch, number)
    with caplog.at_level(logging.WARNING):
        lock = FileLock(path, "output 'out'")
    assert "output 'out' is on a file system without locks" in caplog.text
    assert os.strerror(number) in caplog.text
    if sys.platform == "linux":
        for _ in range(2):
            with pytest.raises(LockedError, match=f"process {os.getpid()} on "):
                FileLock(path, "output 'out'")
    other = FileLock(path.with_name("other.partial.lock"), "output 'other'")
    other.release()
    lock.release()
    assert list(path.parent.iterdir()) == []
    FileLock(path, "output 'out'").release()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's names are Linux's")
def test_without_locks_a_dead_holder_is_no_obstacle(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"""
import fcntl, os, signal
from pathlib import Path
from infer.core.jobs.output.lock import FileLock
def flock(fd, operation): raise OSError({errno.ENOLCK}, "No locks available")
fcntl.flock = flock
lock = FileLock(Path({str(path)!r}), "output")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert path.exists()
    without_locks(monkeypatch, errno.ENOLCK)
    FileLock(path, "output").release()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_lock_that_fails_is_no_holder(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    without_locks(monkeypatch, number)
    with pytest.raises(OutputError, match=os.strerror(number)) as caught:
        FileLock(path, "output 'out'")
    assert caught.value.exit_code == 74


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_is_held(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path.write_text("process 7 on node3, since then\n")
    without_locks(monkeypatch, number)
    with pytest.raises(LockedError, match="process 7 on node3"):
        FileLock(path, "output 'out'")
    assert path.read_text().startswith("process 7")


def test_what_is_no_lock_is_left_alone(path: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    path.write_text("mine")
    for _ in range(2):
        with pytest.raises(ConfigError, match="another file"):
            FileLock(path, "output")
        assert path.read_text() == "mine"
    path.unlink()
    for make in (path.symlink_to, path.hardlink_to):
        make(mine)
        with pytest.raises(ConfigError, match="link"):
            FileLock(path, "output")
        path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a regular file"):
        FileLock(path, "output")
    assert mine.read_text() == "mine"
