"""Kernel cache: the folder that compiled kernels are kept in.

It is ours alone, since its contents are run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

#: Builds that are kept: a home folder may serve machines of several kinds.
KEPT = 8
#: Seconds to wait for another process that is compiling the same, and the age at which its leftovers are nobody's.
PATIENCE = 180.0
_WORK = "work-"


class Unsafe(Exception):
    """Others could write to the folder, or it cannot be had at all."""


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/infer/kernels, or ~/.cache/infer/kernels. Raises Unsafe if there is no home folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise Unsafe("there is no home folder") from error
    return root / "infer" / "kernels"


class Cache:
    """A folder that is open: names in it mean files in this very folder, wherever its path leads by now.

    Args:
        path: made if need be, for our own user alone.

    Raises Unsafe unless the folder itself (no link to one) is our own user's and nobody else may write to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise Unsafe(f"{path}: {error.strerror or error}") from error
        try:
            self._make_ours()
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls) -> Cache:
        """The user's cache; where that is not safe, a temporary folder for this process, which is said."""
        try:
            return cls(cache_folder())
        except Unsafe as error:
            log.warning("compiled kernels are not kept: %s", error)
            return _Temporary()

    def _make_ours(self) -> None:
        found = os.fstat(self._fd)
        if found.st_uid != os.geteuid():
            raise Unsafe(f"{self.path} belongs to another user")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Unsafe(f"{self.path} can be written by other users (chmod 700 makes it usable, once what is in it is deleted)")
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(self._fd, 0o700)

    def find(self, name: str) -> Path | None:
        """The file of that name, to be loaded: a plain one that nobody else can have written. It counts as used now."""
        with contextlib.suppress(OSError):
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                os.utime(name, dir_fd=self._fd)
                return self._inside / name
        return None

    def names(self, suffix: str) -> list[str]:
        """Names of the files that end so, last used first."""
        ages = {}
        for file in self._inside.glob(f"*{suffix}"):
            with contextlib.suppress(OSError):  # another process deleted it
                ages[file.name] = file.lstat().st_mtime
        return sorted(ages, key=lambda name: -ages[name])

    @contextlib.contextmanager
    def work_folder(self) -> Iterator[Path]:
        """A folder to make a file in, on the same file system; gone afterwards."""
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=self._inside))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def put(self, file: Path, name: str) -> Path:
        """Moves a finished file here as `name`, all at once; whoever is first or last, what is there is whole."""
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        file.chmod(0o600)
        os.replace(file, name, dst_dir_fd=self._fd)
        return self._inside / name

    def delete(self, name: str) -> None:
        """Forgets a file. Processes that have it loaded keep it."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._fd)

    def tidy(self, suffix: str) -> None:
        """Deletes the files not used for longest, and what killed processes left."""
        for name in self.names(suffix)[KEPT:]:
            self.delete(name)
        for left in self._inside.glob(f"{_WORK}*"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > 10 * PATIENCE:
                    shutil.rmtree(left, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process at a time compiles: the others wait and find what it made. Not for ever: going on without the
        lock costs time alone, since `put` is safe without it."""
        import fcntl

        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
            else:
                break
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    @property
    def _inside(self) -> Path:
        """The folder by its descriptor: renaming or replacing a folder above it cannot put another in its place."""
        return Path(f"/proc/self/fd/{self._fd}")

    def close(self) -> None:
        """Names found before can no longer be opened."""
        os.close(self._fd)


class _Temporary(Cache):
    """A fresh folder, deleted when it is closed."""

    def __init__(self) -> None:
        try:
            folder = tempfile.mkdtemp(prefix="infer-kernels-")
        except OSError as error:
            raise Unsafe(f"no temporary folder: {error}") from error
        super().__init__(Path(folder))

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.path, ignore_errors=True)
