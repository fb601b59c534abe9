"""Bytes to lines, lazily and in bounded memory.

Lines end at \\n alone (never at U+2028 or a lone \\r). A byte order mark before the first is dropped. An over-long one is
skipped in chunks: only its size and digest are kept.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import NamedTuple

from .source import Source

CHUNK_BYTES = 256 << 10
DEFAULT_MAX_LINE_BYTES = 64 << 20

_BOM = b"\xef\xbb\xbf"
_DIGEST_BYTES = 16
#: As much of a line's digest is kept of every record of a finished output: enough to tell that a line is another one.
SHORT_DIGEST_BYTES = 4


def digest(data: bytes) -> bytes:
    """The hash that lines are recognized by, 16 bytes."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


class Line(NamedTuple):
    """One line without its end. `data` is None for a line longer than allowed; `size` counts line end and byte order mark.

    `digest` is that of the bytes before the \\n (of a BOM not); empty for a blank line.
    """

    data: bytes | None
    size: int
    blank: bool
    digest: bytes


class LineReader:
    """Splits one Source on \\n. Holds at most one line of `max_line_bytes` and a chunk."""

    def __init__(self, source: Source, max_line_bytes: int = DEFAULT_MAX_LINE_BYTES) -> None:
        self._source = source
        self._limit = max_line_bytes
        self._lines: deque[Line] = deque()
        self._open: list[bytes] = []  # the pieces of the line that has not ended yet
        self._open_size = 0
        self._open_blank = True
        self._open_hash: hashlib.blake2b | None = None  # of an over-long line, whose pieces are let go
        self._first = True
        self._exhausted = False

    @property
    def at_end(self) -> bool:
        return self._exhausted and not self._lines

    def ready(self, seconds: float) -> bool:
        """True if `next` has something to look at, or will have within so many seconds, which are then waited for."""
        return bool(self._lines) or self._exhausted or self._source.ready(seconds)

    def next(self, *, wait: bool = True) -> Line | None:
        """The next line; None at the end, or when it is not there yet and `wait` is false. Raises what the source raises."""
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
        for i, piece in enumerate(ended):
            if i == 0 or len(piece) > self._limit:
                self._extend(piece)
                self._close_line(1)
            else:  # the same, for the many that are whole and short
                blank = not piece or piece.isspace()
                self._lines.append(Line(piece, len(piece) + 1, blank, b"" if blank else digest(piece)))
        self._extend(rest)

    def _extend(self, piece: bytes) -> None:
        if not piece:
            return
        self._open_size += len(piece)
        self._open_blank = self._open_blank and piece.isspace()
        if self._open_hash is not None:
            self._open_hash.update(piece)
            return
        self._open.append(piece)
        if self._open_size > self._limit + len(_BOM):
            data = self._joined()
            self._open_blank = data.isspace()  # whatever a byte order mark before it made of it
            self._open_hash = hashlib.blake2b(data, digest_size=_DIGEST_BYTES)
            self._open = []

    def _joined(self) -> bytes:
        data = self._open[0] if len(self._open) == 1 else b"".join(self._open)
        return data.removeprefix(_BOM) if self._first else data

    def _close_line(self, newline: int) -> None:
        size = self._open_size + newline
        if self._open_hash is not None:
            self._lines.append(Line(None, size, self._open_blank, b"" if self._open_blank else self._open_hash.digest()))
        else:
            data = self._joined()
            blank = not data or data.isspace()
            kept = data if len(data) <= self._limit else None
            self._lines.append(Line(kept, size, blank, b"" if blank else digest(data)))
        self._first = False
        self._open = []
        self._open_size = 0
        self._open_blank = True
        self._open_hash = None
