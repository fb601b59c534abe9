"""The few things a job does to files, in one place, so that a test can stand between and record, tear or lose them.

A job writes to files of its own alone: what has a name of ours and is a link, a device, or a file with a second name is
somebody else's, and is refused rather than followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ...errors import ConfigError, OutputError

_PIECE = 1 << 20
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
#: What file systems say that cannot sync a file, or a folder (SMB, FUSE): what is in it is as safe there as it can be.
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY})
#: And that cannot open one, or not for us.
_CANNOT_OPEN_FOLDER = _CANNOT_SYNC | {errno.EACCES, errno.EPERM, errno.EISDIR}


class Files:
    """The operating system's files; descriptors are its ints. All methods raise OSError."""

    def open(self, path: Path, mode: int) -> int:
        """Opens a file of the job's own for reading and writing, creating it with `mode`. Raises ConfigError for what is none."""
        return open_own(path, mode)

    def look(self, path: Path) -> int:
        """Opens a file that is there for reading."""
        return os.open(path, os.O_RDONLY | _CLOEXEC)

    def write(self, fd: int, data: bytes) -> None:
        """Appends all of `data` at the file's position."""
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def truncate(self, fd: int, size: int) -> None:
        """Cuts the file and moves its position to its end."""
        os.ftruncate(fd, size)
        os.lseek(fd, size, os.SEEK_SET)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes at `offset`, leaving the position alone."""
        return os.pread(fd, size, offset)

    def sync(self, fd: int) -> None:
        """Makes what was written survive a power cut."""
        with _allowed(_CANNOT_SYNC):
            os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Atomic replacement, durable on return."""
        source.replace(target)
        sync_folder(target.parent)

    def remove(self, path: Path) -> None:
        """No error if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

    def close(self, fd: int) -> None:
        with _allowed({errno.EINTR}):  # it is closed
            os.close(fd)


def open_own(path: Path, mode: int) -> int:
    """Opens a file of ours for reading and writing, creating it with `mode`.

    Raises OSError, OutputError; ConfigError if what has the name is not a plain file with this name alone.
    """
    refuse_if_foreign(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | _CLOEXEC | _NO_FOLLOW, mode)
    try:
        _refuse_others(path, os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def refuse_if_foreign(path: Path) -> None:
    """Raises ConfigError if something has the name of a file of ours that cannot be one, OutputError where that cannot be found out."""
    status = _status(path, os.lstat)
    if status is not None:
        _refuse_others(path, status)


def _refuse_others(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        what = "a link"
    elif not stat.S_ISREG(status.st_mode):
        what = "not a regular file"
    elif status.st_nlink > 1:
        what = "a file with another name besides (a hard link)"
    else:
        return
    raise ConfigError(f"{str(path)!r} is needed for a file of this run and is {what}, which is left alone; move it away")


def write_whole(path: Path, data: bytes) -> None:
    """Puts `data` in place as `path`, all of it or nothing, durable on return. Raises OSError."""
    for number in range(1000):
        # Short, whatever the name: it must fit where the name does.
        temporary = path.with_name(f".{os.getpid()}-{number}.tmp")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOEXEC, 0o666)
        except FileExistsError:  # somebody else's, or of a process that died
            continue
        break
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(temporary))
    put_in_place(Files(), fd, temporary, path, data)


def put_in_place(files: Files, fd: int, temporary: Path, path: Path, data: bytes) -> None:
    """Makes `data` the content of `temporary`, which is open as `fd`, and `path` its name, durable on return. Raises OSError; then
    `temporary` is gone. It is closed in any case.
    """
    try:
        try:
            files.truncate(fd, 0)
            files.write(fd, data)
            files.sync(fd)
        finally:
            files.close(fd)
        files.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove(temporary)
        raise


def sync_folder(folder: Path) -> None:
    """The names in a folder survive a power cut from here on, where the file system can promise that. Raises OSError."""
    with _allowed(_CANNOT_OPEN_FOLDER):
        fd = os.open(folder, os.O_RDONLY | _CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def _allowed(numbers: Collection[int]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def followed(name: str, what: str) -> Path:
    """The place that a name leads to, links followed. Raises ConfigError naming `what` for links that lead round in a circle."""
    path = Path(os.path.realpath(name))
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConfigError(f"{what} is a symbolic link that leads round to itself; remove it, or choose another file") from None
    except ValueError:  # a null character: whoever opens it says so
        pass
    return path


def is_there(path: Path) -> bool:
    """True if something has this name, even a link that leads nowhere. Raises OutputError if that cannot be found out."""
    return _mode(path, os.lstat) is not None


def is_file(path: Path) -> bool:
    """True if it is (or leads to) a regular file. Raises OutputError."""
    mode = _mode(path, os.stat)
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: Path) -> bool:
    """True if it is (or leads to) a folder. Raises OutputError."""
    mode = _mode(path, os.stat)
    return mode is not None and stat.S_ISDIR(mode)


def is_special(path: Path) -> bool:
    """True if it is a pipe or a device. Raises OutputError."""
    mode = _mode(path, os.stat)
    return mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _mode(path: Path, look: Callable[[Path], os.stat_result]) -> int | None:
    status = _status(path, look)
    return None if status is None else status.st_mode


def _status(path: Path, look: Callable[[Path], os.stat_result]) -> os.stat_result | None:
    """None: nothing has this name, or can have it. To take another failure for that would cost what is there."""
    try:
        return look(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise OutputError(f"{str(path)!r} cannot be looked at: {error.strerror}") from None


def refuse_long_name(path: Path, output: str) -> None:
    """Raises ConfigError if a file cannot be named so."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            name = os.fsencode(path.name)
            why = f"it needs a file named {path.name!r}, whose {len(name)} bytes are too many here"
            raise ConfigError(f"output {output!r} cannot be written: {why}; choose a shorter name") from None


def pieces(files: Files, fd: int, size: int, *, start: int = 0) -> Iterator[bytes]:
    """The `size` bytes of a file from `start` on, a piece at a time; fewer if it is shorter."""
    end = start + size
    while start < end and (data := files.read(fd, min(_PIECE, end - start), start)):
        yield data
        start += len(data)
