"""OUT made from rows, and how one tells later that it was."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

from .files import Files, pieces
from .journal import recover


class Making:
    """The file that becomes OUT, while it is written. Afterwards `num_bytes` and `sha256` are known."""

    def __init__(self, files: Files, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        self.sha256 = hashlib.sha256()
        self._files = files
        self._fd = -1

    def make(self, write_all: Callable[[Callable[[bytes], None]], None], *, sync: bool) -> None:
        """Has `write_all` write all of it; `sync`: it is on disk when this returns. Raises OSError."""
        self._fd = self._files.open(self.path, 0o666)
        try:
            self._files.truncate(self._fd, 0)
            write_all(self._write)
            if sync:
                self._files.sync(self._fd)
        finally:
            self._files.close(self._fd)

    def _write(self, data: bytes) -> None:
        self._files.write(self._fd, data)
        self.sha256.update(data)
        self.num_bytes += len(data)


def sha256_of(files: Files, fd: int, size: int) -> hashlib._Hash:
    """Of the first `size` bytes of a file."""
    sha256 = hashlib.sha256()
    for piece in pieces(files, fd, size):
        sha256.update(piece)
    return sha256


def is_whole(files: Files, target: Path, journal: Path, *, matrix: bool) -> bool:
    """True if `target` is all that the job of the journal beside it was to write. Raises OSError."""
    with contextlib.ExitStack() as stack:
        journal_fd = files.look(journal)
        stack.callback(files.close, journal_fd)
        fd = files.look(target)
        stack.callback(files.close, fd)
        left, size = recover(files, journal_fd, fd, {}), target.stat().st_size
        if left is None:
            return False
        if matrix:
            return left.made is not None and left.made == (size, sha256_of(files, fd, size).hexdigest())
        return left.holds_answers and not len(left.spilled) and left.commit.out_bytes == size
