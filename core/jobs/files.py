"""The few things a job does to files, in one place, so that a test can stand between and record, tear or lose them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

_PIECE = 1 << 20


class Files(Protocol):
    """Descriptors are ints as the system's. All methods raise OSError."""

    def open(self, path: Path, mode: int) -> int:
        """Opens for reading and writing, creating it with `mode`."""

    def write(self, fd: int, data: bytes) -> None:
        """Appends all of `data` at the file's position."""

    def truncate(self, fd: int, size: int) -> None:
        """Cuts the file and moves its position to its end."""

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes at `offset`, leaving the position alone."""

    def sync(self, fd: int) -> None:
        """What was written survives a power cut from here on."""

    def rename(self, source: Path, target: Path) -> None:
        """Atomic replacement, durable on return."""

    def remove(self, path: Path) -> None:
        """No error if it is not there."""

    def close(self, fd: int) -> None: ...


class RealFiles:
    """The operating system's files."""

    def open(self, path: Path, mode: int) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), mode)

    def write(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)
        os.lseek(fd, size, os.SEEK_SET)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def sync(self, fd: int) -> None:
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

    def close(self, fd: int) -> None:
        os.close(fd)


def pieces(files: Files, fd: int, size: int, *, start: int = 0) -> Iterator[bytes]:
    """The `size` bytes of a file from `start` on, a piece at a time; fewer if it is shorter."""
    end = start + size
    while start < end and (data := files.read(fd, min(_PIECE, end - start), start)):
        yield data
        start += len(data)
