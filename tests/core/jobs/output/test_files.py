"""Names and renamings of a job's files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from infer.core.errors import ConfigError
from infer.core.jobs.output.files import Files, followed, open_own, write_whole


def failing_sync(monkeypatch: pytest.MonkeyPatch, number: int, *, folders: bool) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode) == folders:
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP])
@pytest.mark.parametrize("folders", [True, False])
def test_where_nothing_can_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, folders: bool) -> None:
    failing_sync(monkeypatch, number, folders=folders)
    files = Files()
    fd = files.open(tmp_path / "a", 0o600)
    files.write(fd, b"a")
    files.sync(fd)
    files.close(fd)
    files.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"a"


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files can be made in it, but it cannot be opened."""
    real = os.open

    def open_(path: Path, flags: int, *mode: int) -> int:
        if Path(path) == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", open_)
    (tmp_path / "a").touch()
    Files().rename(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("folders", [True, False])
def test_a_sync_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, folders: bool) -> None:
    failing_sync(monkeypatch, number, folders=folders)
    with pytest.raises(OSError, match=os.strerror(number)):
        write_whole(tmp_path / "a", b"a")


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    a, b, link = (tmp_path / name for name in ("a", "b", "link"))
    link.symlink_to("target")
    assert followed(str(link), "output 'link'") == tmp_path / "target"
    a.symlink_to(b)
    b.symlink_to(a)
    for name in (a, b):
        with pytest.raises(ConfigError, match=r"output 'x' is a symbolic link that leads round to itself; remove it"):
            followed(str(name), "output 'x'")


def test_only_plain_files_with_one_name_are_our_own(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "path"
    other.write_text("mine")
    for make, what in ((path.symlink_to, "link"), (path.hardlink_to, "hard link")):
        make(other)
        with pytest.raises(ConfigError, match=f"{path}.*{what}.*move it away"):
            open_own(path, 0o600)
        path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="link"):
        open_own(path, 0o600)
    assert not (tmp_path / "nowhere").exists()
    path.unlink()
    for make_other in (os.mkfifo, os.mkdir):
        make_other(path)
        with pytest.raises(ConfigError, match="not a regular file"):
            open_own(path, 0o600)
        path.rmdir() if path.is_dir() else path.unlink()
    os.close(open_own(path, 0o600))
    assert other.read_text() == "mine"


def test_a_whole_file(tmp_path: Path) -> None:
    """The longest name there can be, over another file, beside what a dead process of our number left."""
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    target = tmp_path / ("x" * longest)
    target.write_text("old")
    left = tmp_path / f".{os.getpid()}-0.tmp"
    left.symlink_to(tmp_path / "elsewhere")
    write_whole(target, b"new")
    assert target.read_bytes() == b"new"
    assert left.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([left.name, target.name])


def test_a_file_that_cannot_be_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "a", b"new")
    assert list(tmp_path.iterdir()) == []
