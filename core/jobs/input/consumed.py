"""Notices when an input file is cut off, written over or replaced while it is read.

A file is read up to where it ended when it was opened: what is appended meanwhile may end in the middle of a line, and is
another run's. Whether bytes that were read have changed is seen by their hash, once the file's size, times or inode have.
"""

from __future__ import annotations

import hashlib
import os
import stat

from ...errors import InferError

_PIECE = 1 << 20
_ADVICE = "put back what was there and go on with --resume, or start again with --overwrite"


class Consumed:
    """
    Args:
        name: of the input, for messages.
        path: where it can be looked at again; None if it has only a descriptor.
        seen: what `os.stat` said of it when the run began.

    All methods raise OSError, and InferError for a file that is not what it was.
    """

    def __init__(self, name: str, path: str | None, seen: os.stat_result) -> None:
        self._name = name
        self._path = path
        self._seen = seen
        self._hash = hashlib.blake2b(digest_size=16)
        self._start = self._at = 0
        self._end: int | None = None  # None: it does not say how long it is (/proc), and what is read of it changes
        self._state: tuple[int, ...] | None = None  # as of when what was read was known to be there
        self._checked = 0  # bytes that were read by then

    def begin(self, fd: int) -> None:
        """It was opened, and is read from where the descriptor stands."""
        now = os.fstat(fd)
        self._start = self._at = os.lseek(fd, 0, os.SEEK_CUR)
        if not now.st_size:
            if self._seen.st_size:
                raise self._changed(f"it has 0 bytes, and had {self._seen.st_size:,} when the run began")
            return
        if not os.path.samestat(now, self._seen):
            raise self._changed("another file has its name since the run began")
        if now.st_size < self._seen.st_size:
            raise self._changed(f"it has {now.st_size:,} bytes, and had {self._seen.st_size:,} when the run began")
        if now.st_size == self._seen.st_size and now.st_mtime_ns != self._seen.st_mtime_ns:
            raise self._changed("it was written to since the run began")
        self._end, self._state = now.st_size, _state(now)

    def room(self, size: int) -> int:
        """The number of bytes to read where `size` are asked for."""
        return size if self._end is None else max(0, min(size, self._end - self._at))

    def take(self, fd: int, data: bytes) -> None:
        """These bytes were read; none: there are no more."""
        self._at += len(data)
        if self._end is None:
            return
        if not data:
            if self._at < self._end:
                raise self._changed(f"it ends after {self._at:,} bytes, and had {self._end:,} when it was opened")
            self._check(fd, os.fstat(fd))
            return
        self._hash.update(data)
        now = os.fstat(fd)
        # All that was read is read again, so not for each write to a file that others append to.
        if _state(now) != self._state and self._at - self._start >= 2 * self._checked:
            self._check(fd, now)

    def check(self, fd: int) -> None:
        """Looks again, however long ago it was read. `fd` is its descriptor where it has no path."""
        if self._end is None:
            return
        if self._path is None:
            self._check(fd, os.fstat(fd))
            return
        try:
            now = os.stat(self._path)  # noqa: PTH116 (names as they were given)
        except FileNotFoundError:  # deleted: it was whole as long as it was needed
            return
        if _state(now) == self._state:
            return
        if not stat.S_ISREG(now.st_mode):
            raise self._changed("something else has its name")
        fd = os.open(self._path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            self._check(fd, os.fstat(fd))
        finally:
            os.close(fd)

    def _check(self, fd: int, now: os.stat_result) -> None:
        if _state(now) == self._state:
            return
        found = hashlib.blake2b(digest_size=16)
        place = self._start
        while place < self._at and (data := os.pread(fd, min(_PIECE, self._at - place), place)):
            found.update(data)
            place += len(data)
        if place < self._at:
            raise self._changed(f"it has {place:,} bytes, and {self._at:,} were read of it")
        if found.digest() != self._hash.digest():
            raise self._changed("what was read of it is there no more")
        self._state, self._checked = _state(now), self._at - self._start

    def _changed(self, how: str) -> InferError:
        return InferError(f"input {self._name!r} changed under the run: {how}; {_ADVICE}")


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
