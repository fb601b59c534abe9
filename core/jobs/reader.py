"""Input: bytes to records, lazily and in bounded memory.

Lines end at \\n alone (never at U+2028 or a lone \\r), blank ones are skipped and counted, an over-long one is skipped in
chunks and becomes a record error. Knows nothing of what a record means.
"""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from ..errors import ConfigError, InferError, RecordError
from .record import Record

CHUNK_BYTES = 256 << 10
DEFAULT_MAX_LINE_BYTES = 64 << 20

_BOM = b"\xef\xbb\xbf"


class Source(Protocol):
    """Where bytes come from."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; as soon as there are any; empty at the end."""

    def ready(self) -> bool:
        """Whether `read` would return at once."""


class InputFile:
    """A file, a pipe or stdin (`-`) as a Source. Opened when made, so that a wrong name is an error before anything is loaded."""

    def __init__(self, name: str) -> None:
        self.name = "stdin" if name == "-" else name
        if name == "-":
            self.fd = 0
            if os.isatty(0):
                raise ConfigError("reading from the terminal: name an input file, or pipe lines in (IN is -, and stdin is a terminal)")
        else:
            try:
                self.fd = os.open(name, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            except FileNotFoundError:
                raise ConfigError(f"input {name!r} does not exist") from None
            except OSError as error:
                raise ConfigError(f"input {name!r} cannot be opened: {error.strerror}") from None
        try:
            self.status = os.fstat(self.fd)
        except OSError as error:
            raise ConfigError(f"input {self.name!r} cannot be read: {error.strerror}") from None
        if stat.S_ISDIR(self.status.st_mode):
            raise ConfigError(f"input {name!r} is a folder; name a JSONL file")
        self._regular = stat.S_ISREG(self.status.st_mode)

    @property
    def size(self) -> int | None:
        """Bytes in the file; None where nobody knows (pipes)."""
        return self.status.st_size if self._regular else None

    def read(self, size: int) -> bytes:
        try:
            while True:
                try:
                    return os.read(self.fd, size)
                except BlockingIOError:  # somebody made the pipe non-blocking
                    select.select([self.fd], [], [])
        except OSError as error:
            raise InferError(f"input {self.name!r} cannot be read: {error.strerror}") from None

    def ready(self) -> bool:
        return self._regular or bool(select.select([self.fd], [], [], 0)[0])

    def close(self) -> None:
        if self.fd > 0:
            os.close(self.fd)
            self.fd = -1


class Line(NamedTuple):
    """One line without its end. `data` is None for a line longer than allowed; `size` counts the line end."""

    data: bytes | None
    size: int
    blank: bool


class LineReader:
    """Splits a Source on \\n. Holds at most one line of `max_line_bytes` and a chunk."""

    def __init__(self, source: Source, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES) -> None:
        self._source = source
        self._limit = max_line_bytes
        self._lines: deque[Line] = deque()
        self._open: list[bytes] = []  # the pieces of the line that has not ended yet
        self._open_size = 0
        self._open_blank = True
        self._first = True
        self._exhausted = False

    @property
    def at_end(self) -> bool:
        return self._exhausted and not self._lines

    def next(self, *, wait: bool = True) -> Line | None:
        """The next line; None at the end, or when it is not there yet and `wait` is false."""
        while not self._lines:
            if self._exhausted or not (wait or self._source.ready()):
                return None
            chunk = self._source.read(CHUNK_BYTES)
            if chunk:
                self._split(chunk)
            else:
                self._exhausted = True
                if self._open_size:
                    self._close_line(0)
        return self._lines.popleft()

    def _split(self, chunk: bytes) -> None:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            self._extend(piece)
            self._close_line(1)
        self._extend(rest)

    def _extend(self, piece: bytes) -> None:
        if not piece:
            return
        self._open_size += len(piece)
        self._open_blank = self._open_blank and not piece.strip()
        if self._open_size <= self._limit + len(_BOM):
            self._open.append(piece)
        else:
            self._open.clear()  # too long: from here on only its size and blankness are kept

    def _close_line(self, newline: int) -> None:
        data: bytes | None = self._open[0] if len(self._open) == 1 else b"".join(self._open)
        size, blank = self._open_size, self._open_blank
        if self._first and data and data.startswith(_BOM):
            data = data[len(_BOM) :]
            size -= len(_BOM)
            blank = not data.strip()
        if size > self._limit:
            data = None
        self._lines.append(Line(data, self._open_size + newline, blank))
        self._first = False
        self._open = []
        self._open_size = 0
        self._open_blank = True


class RecordReader:
    """Records of one input, in order, each made when it is asked for."""

    def __init__(self, source: Source, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES) -> None:
        self._lines = LineReader(source, max_line_bytes)
        self._limit = max_line_bytes
        self.num_records = 0
        self.num_blank = 0
        self.bytes_read = 0

    @property
    def at_end(self) -> bool:
        """Whether the input is known to be over. May turn true only after a `take` that found nothing."""
        return self._lines.at_end

    def take(self, max_records: int, max_bytes: int, *, wait: bool) -> list[Record]:
        """Up to so many records and about so many bytes, at least one record if there is one.

        Without `wait`, what can be had without blocking; with it, blocks for the first record only.
        """
        records: list[Record] = []
        size = 0
        while len(records) < max_records and size < max_bytes:
            line = self._lines.next(wait=wait and not records)
            if line is None:
                break
            self.bytes_read += line.size
            if line.blank:
                self.num_blank += 1
                continue
            records.append(self._record(line))
            size += line.size
        return records

    def __iter__(self) -> Iterator[Record]:
        while records := self.take(1, 1, wait=True):
            yield from records

    def _record(self, line: Line) -> Record:
        index, number = self.num_records, self.num_records + self.num_blank + 1
        self.num_records += 1
        if line.data is None:
            error = RecordError("line_too_long", f"the line is longer than --max-line-bytes {self._limit}")
            return Record(index, number, line.size, error=error)
        return Record.parse(index, number, line.size, line.data)


def same_file(a: os.stat_result, b: os.stat_result | Path) -> bool:
    """Whether both are one regular file (under whatever names)."""
    if isinstance(b, Path):
        try:
            b = b.stat()
        except OSError:
            return False
    return stat.S_ISREG(a.st_mode) and os.path.samestat(a, b)
