"""A file of lines that grows beside the output and is published with it: the failed lines, or the ids of vectors."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...errors import ConfigError
from ..jsonl import spelled
from ..row import Row
from .files import Files, is_file, is_there
from .journal import JOURNAL_SUFFIX, Commit
from .lock import LOCK_SUFFIX, FileLock

PARTIAL_SUFFIX = ".partial"


class SideFile:
    """A file that lies at `partial` until it is published. One run at a time has it: see `lock`.

    Args:
        name: in the journal.
        path: the published file.
        line_of: a row's line without its newline; None if it has none.
        what: what messages call the file.
    """

    def __init__(self, name: str, path: Path, line_of: Callable[[Row], bytes | None], what: str, files: Files) -> None:
        self.name = name
        self.path = path
        self.partial = path.with_name(path.name + PARTIAL_SUFFIX)
        self.lock_path = path.with_name(path.name + LOCK_SUFFIX)
        self.what = what
        self.fd = -1
        self._line_of = line_of
        self._files = files
        self._published = False
        self._lock: FileLock | None = None

    def lock(self) -> None:
        """Until `close`. Raises LockedError, OutputError, ConfigError."""
        self._lock = FileLock(self.lock_path, self.what)

    def refuse_others(self, *, replace: bool, partial: bool) -> None:
        """Raises ConfigError if what is there is not to be written over.

        Args:
            replace: a published file may be replaced.
            partial: so may an unfinished one.
        """
        if is_there(self.path.with_name(self.path.name + JOURNAL_SUFFIX)):
            raise ConfigError(f"{self.what} is the output of a run that did not finish; choose another file")
        if is_there(self.path) and not replace:
            raise ConfigError(f"{self.what} exists; use --overwrite to replace it, or choose another file")
        if is_there(self.partial) and not partial:
            raise ConfigError(
                f"{str(self.partial)!r} is needed for {self.what} but exists already, and does not belong to the run that is resumed; "
                "use --overwrite to replace it, or choose another file"
            )

    def place(self, output: Path) -> dict[str, str]:
        """Its place, for the journal of `output`, told in two ways: the second still holds if both folders were moved together."""
        return spelled({"path": str(self.path), "from_output": os.path.relpath(self.path, output.parent)})

    def refuse_strange(self, told: Mapping[str, str] | None, borne_out: int, output: Path) -> None:
        """Raises ConfigError if a file that is there is not the one of an unfinished run.

        Args:
            told: what the run's journal says of its place; None where it says nothing.
            borne_out: how many bytes of it the journal knows and found.
        """
        here = self.place(output)
        if borne_out or (told is not None and any(told.get(name) == place for name, place in here.items())):
            return
        if told is not None:
            was = f"an unfinished run has its {self.name} in {told.get('path')!r}, not in {here['path']!r}"
            raise ConfigError(f"{was}; go on there with --resume, or start again with --overwrite")
        if self.fd >= 0 and self._files.read(self.fd, 1, 0):
            raise ConfigError(
                f"{str(self.partial)!r} is not known to belong to the unfinished run; move it away, or start again with --overwrite"
            )

    def open(self, open_file: Callable[[Path, int], int], *, has_output: bool) -> None:
        """`has_output`: whether there is an unfinished output."""
        # A run that died between publishing this and publishing the output.
        self._published = not is_there(self.partial) and is_file(self.path) and has_output
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

    def close_file(self) -> None:
        """Raises OSError: some systems say only now that writing failed."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self._files.close(fd)

    def publish(self) -> None:
        self._files.rename(self.partial, self.path)

    def unlock(self) -> None:
        """Lets others have it."""
        if self._lock is not None:
            self._lock.release()
