"""Sources of input bytes: a file, a pipe, stdin."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

from ...errors import ConfigError, InferError, nearest
from .consumed import Consumed

_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
#: On Linux a FIFO nobody writes to yet is opened at once and then waited for; elsewhere it would look as if it had ended.
_AT_ONCE = os.O_NONBLOCK if sys.platform == "linux" else 0

#: As much of a file's beginning is looked at as its kind can be told by.
HEAD_BYTES = 4096
#: Files of a folder among which one of a like name is looked for.
_MOST_LOOKED_AT = 10_000


class Source(Protocol):
    """A source of bytes."""

    def read(self, size: int) -> bytes:
        """About `size` bytes at most; as soon as there are any; empty at the end. Raises InferError, each time it is called."""

    def ready(self, seconds: float = 0.0) -> bool:
        """True if `read` would return (or raise) at once, or would within so many seconds, which are then waited for."""


class InputFile:
    """A file, a pipe or stdin (`-`) as a Source.

    It is looked at when made, so that a wrong name is an error before anything is loaded, opened when it is first read and
    closed at its end, so that there may be many. A file that changes meanwhile is an InferError (see `Consumed`).

    Attributes:
        name: for messages.
        status: what `os.stat` said.
        head: the first HEAD_BYTES of a regular file, else empty.
    """

    def __init__(self, name: str) -> None:
        self.name = "stdin" if name == "-" else name
        self.head = b""
        self._path = name
        self._fd = 0 if name == "-" else -1  # -1: not open
        self._ended = False
        self._failure: InferError | None = None
        self._begun = False
        if name == "-" and os.isatty(0):
            raise ConfigError("reading from the terminal: name an input file, or pipe lines in (IN is -, and stdin is a terminal)")
        try:
            self.status = os.stat(self._fd if name == "-" else name)  # noqa: PTH116 (a descriptor too)
            self._regular = stat.S_ISREG(self.status.st_mode)
            if self._regular:
                self.head = self._look()
            elif name != "-" and not os.access(name, os.R_OK):
                raise PermissionError(0, "Permission denied")
        except FileNotFoundError:
            raise ConfigError(f"input {name!r} does not exist{_near(name)}") from None
        except OSError as error:
            raise ConfigError(f"input {self.name!r} cannot be opened: {error.strerror}") from None
        if stat.S_ISDIR(self.status.st_mode):
            raise ConfigError(f"input {name!r} is a folder; name a JSONL file")
        self._consumed = Consumed(self.name, None if name == "-" else name, self.status) if self._regular else None

    @property
    def size(self) -> int | None:
        """Bytes in the file; None where nobody knows (pipes)."""
        return self.status.st_size if self._regular else None

    def read(self, size: int) -> bytes:
        if self._failure is not None:
            raise self._failure
        if self._ended:
            return b""
        with self._telling():
            if not self._begun:
                self._open()
            data = self._read(size)
        if not data:
            self.close()
        return data

    def check(self) -> None:
        """Raises InferError if what was read of a file is not there any more."""
        if self._consumed is not None and self._begun:
            with self._telling():
                self._consumed.check(self._fd)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Turns the system's errors into ours. After one error every read fails: nobody knows how far it had got."""
        try:
            yield
        except OSError as error:
            self._failure = InferError(f"input {self.name!r} cannot be read: {error.strerror}")
            raise self._failure from None
        except InferError as error:
            self._failure = error
            raise

    def ready(self, seconds: float = 0.0) -> bool:
        if self._regular or self._ended:
            return True
        if not self._begun:
            if not _AT_ONCE:
                return seconds > 0  # opening a pipe may block until somebody writes to it, so it is left to callers who can wait
            try:
                self._open()
            except OSError:
                return True  # `read` says what is wrong
        return bool(select.select([self._fd], [], [], seconds)[0])

    def close(self) -> None:
        """Nothing more is read."""
        self._ended = True
        if self._path != "-":
            fd, self._fd = self._fd, -1
            if fd >= 0:
                with contextlib.suppress(OSError):  # it was only read
                    os.close(fd)

    def _open(self) -> None:
        if self._path != "-":
            self._fd = os.open(self._path, _READ | _AT_ONCE)
        self._begun = True
        if self._consumed is not None:
            self._consumed.begin(self._fd)

    def _read(self, size: int) -> bytes:
        if self._consumed is not None:
            data = os.read(self._fd, room) if (room := self._consumed.room(size)) else b""
            self._consumed.take(self._fd, data)
            return data
        while True:
            select.select([self._fd], [], [])  # some pipes do not wait: this one was opened so, or somebody made it so
            try:
                return os.read(self._fd, size)
            except BlockingIOError:
                continue

    def _look(self) -> bytes:
        if self._fd == 0:
            return os.pread(0, HEAD_BYTES, os.lseek(0, 0, os.SEEK_CUR))
        fd = os.open(self._path, _READ)
        try:
            return os.pread(fd, HEAD_BYTES, 0)
        finally:
            os.close(fd)


def same_file(a: os.stat_result, b: os.stat_result | Path) -> bool:
    """True if both are one regular file (under whatever names)."""
    if isinstance(b, Path):
        try:
            b = b.stat()
        except OSError:
            return False
    return stat.S_ISREG(a.st_mode) and os.path.samestat(a, b)


def _near(name: str) -> str:
    """The hint for a file that is not there: one beside it whose name is almost that."""
    path = Path(name)
    try:
        names = [one.name for one in islice(path.parent.iterdir(), _MOST_LOOKED_AT) if not one.name.startswith(f"{path.name}.")]  # .partial
    except (OSError, ValueError):
        return ""
    return nearest(path.name, names)
