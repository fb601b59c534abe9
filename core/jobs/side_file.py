"""A file of lines that grows beside the output and is published with it: the failed lines, or the ids of vectors."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import Files
from .journal import Commit
from .row import Row

PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True)
class SideLines:
    """Which lines go where.

    Args:
        name: in the journal.
        path: the published file.
        line_of: a row's line without its newline; None if it has none.
    """

    name: str
    path: Path
    line_of: Callable[[Row], bytes | None]


class SideFile:
    """The file of `lines`, which lies at `partial` until it is published."""

    def __init__(self, lines: SideLines, files: Files) -> None:
        self.name = lines.name
        self.path = lines.path
        self.partial = lines.path.with_name(lines.path.name + PARTIAL_SUFFIX)
        self.fd = -1
        self._line_of = lines.line_of
        self._files = files
        self._published = False

    def open(self, open_file: Callable[[Path, int], int], *, has_output: bool) -> None:
        """`has_output`: whether there is an unfinished output."""
        # A run that died between publishing this and publishing the output.
        self._published = not self.partial.exists() and self.path.is_file() and has_output
        self.fd = open_file(self.path if self._published else self.partial, 0o666)

    def cut(self, size: int) -> None:
        """Goes on after its first `size` bytes. A published file is made this run's own again, or let be if nothing of it is kept."""
        if self._published:
            self._published = False
            if size:
                self._files.rename(self.path, self.partial)
            else:
                self._files.close(self.fd)
                self.fd = self._files.open(self.partial, 0o666)
        self._files.truncate(self.fd, size)

    def write(self, rows: Sequence[Row], before: Commit) -> tuple[int, int]:
        """Appends the lines of rows; returns (bytes, checksum) of all there is, given what a commit says of those before."""
        lines = [line for line in map(self._line_of, rows) if line is not None]
        data = b"".join([line + b"\n" for line in lines])
        if data:
            self._files.write(self.fd, data)
        size, crc = before.sides.get(self.name, (0, 0))
        return size + len(data), zlib.crc32(data, crc)

    def sync(self) -> None:
        self._files.sync(self.fd)

    def publish(self) -> None:
        self._files.rename(self.partial, self.path)

    def close(self) -> None:
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                self._files.close(self.fd)
        self.fd = -1
