"""Output: rows in any order in, bytes in input order out.

A file is written as `OUT.partial` and renamed at the end, so `OUT` is whole or not there. What is no regular file
(`-`, a FIFO, /dev/null) is written straight through.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from pathlib import Path
from typing import BinaryIO, Protocol

from ..errors import ConfigError, OutputError
from .jsonl import escape_for_terminal
from .reader import same_file

PARTIAL_SUFFIX = ".partial"

#: Names of standard output. Descriptor 1 itself points elsewhere in the program, so these cannot be opened as files.
_STDOUT = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})

#: The disk's fault, not the command line's.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes) -> None:
        """All of `data`. Raises OutputError, or BrokenPipeError when nobody reads any more."""

    def finish(self) -> None:
        """Nothing more comes: make the output what its name promises."""

    def close(self) -> None:
        """Let go of it, finished or not. Never raises."""


class OutputFile:
    """A Sink on a file or on stdout.

    Args:
        name: path, or `-` for `stdout`.
        overwrite: whether an existing file may be replaced.
        input_status: `os.fstat` of the input, which is never written to.
        stdout: the stream behind `-`.
    """

    def __init__(
        self, name: str, *, overwrite: bool = False, input_status: os.stat_result | None = None, stdout: BinaryIO | None = None
    ) -> None:
        to_stdout = name in _STDOUT
        self.name = "stdout" if to_stdout else name
        self.num_bytes = 0
        self._partial: Path | None = None
        self._stream: BinaryIO | None = None  # a stdout that is no descriptor
        self._owned = not to_stdout
        self._target = Path(os.path.realpath(name))
        if to_stdout:
            self._fd = self._take_stdout(stdout, input_status)
        else:
            self._fd = self._open(name, overwrite, input_status)
        self.is_terminal = self._fd >= 0 and os.isatty(self._fd)

    def _take_stdout(self, stdout: BinaryIO | None, input_status: os.stat_result | None) -> int:
        stdout = stdout or sys.stdout.buffer
        stdout.flush()
        try:
            fd = stdout.fileno()
        except OSError:
            self._stream = stdout
            return -1
        if input_status and same_file(input_status, os.fstat(fd)):
            raise ConfigError("output and input are the same file; the output would be read as input")
        return fd

    def _open(self, name: str, overwrite: bool, input_status: os.stat_result | None) -> int:
        target = self._target
        flags = os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)
        try:
            if Path(name).exists() and not Path(name).is_file():
                if Path(name).is_dir():
                    raise ConfigError(f"output {name!r} is a folder; name a file")
                return os.open(name, flags)
            partial = target.with_name(target.name + PARTIAL_SUFFIX)
            if input_status and (same_file(input_status, target) or same_file(input_status, partial)):
                raise ConfigError(f"output {name!r} and the input are the same file; choose another output")
            if target.exists() and not overwrite:
                raise ConfigError(f"output {name!r} exists; use --overwrite to replace it, or choose another output")
            if partial.exists() and partial.stat().st_size and not overwrite:
                left = f"{name + PARTIAL_SUFFIX!r} exists, from a run that did not finish or is still going"
                raise ConfigError(f"{left}; use --overwrite to start again, or choose another output")
            fd = os.open(partial, flags | os.O_CREAT | os.O_TRUNC, 0o666)
        except OSError as error:
            kind = OutputError if error.errno in _NO_ROOM else ConfigError
            raise kind(f"output {name!r} cannot be created: {error.strerror}") from None
        self._partial = partial
        return fd

    def write(self, data: bytes) -> None:
        if self.is_terminal:
            data = escape_for_terminal(data)
        self.num_bytes += len(data)
        if self._stream is not None:
            self._stream.write(data)
            self._stream.flush()
            return
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:  # somebody made the pipe non-blocking
                    select.select([], [self._fd], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._failed(error) from None

    def finish(self) -> None:
        if self._partial is None:
            return
        try:
            os.fsync(self._fd)
            self._partial.replace(self._target)
        except OSError as error:
            raise self._failed(error) from None
        self._partial = None

    def close(self) -> None:
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            if self._partial and not self.num_bytes:
                self._partial.unlink()  # a run that ended before its first answer leaves nothing behind
            if self._owned:
                os.close(self._fd)
        self._fd = -1

    def _failed(self, error: OSError) -> OutputError:
        kept = f"; what was finished is in {str(self._partial)!r}" if self._partial else ""
        return OutputError(f"output {self.name!r} cannot be written after {self.num_bytes:,} bytes: {error.strerror}{kept}")


class OrderedWriter:
    """Takes the row of each index once, in any order, and writes them in order. Rows that are early wait in memory."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._early: dict[int, bytes] = {}
        self._due: list[bytes] = []
        self._next = 0
        self.num_written = 0
        self.bytes_held = 0

    @property
    def num_held(self) -> int:
        """Rows that wait for an earlier one."""
        return len(self._early)

    def put(self, index: int, row: bytes) -> None:
        """The row of record `index`, without its newline. Reaches the sink with the next `flush`."""
        assert index >= self._next, f"row {index} was written already"
        assert index not in self._early, f"row {index} was given twice"
        self._early[index] = row
        self.bytes_held += len(row)
        while (due := self._early.pop(self._next, None)) is not None:
            self._due.append(due)
            self._next += 1

    def flush(self) -> None:
        """Write every row whose turn has come."""
        if not self._due:
            return
        due, self._due = self._due, []
        self.bytes_held -= sum(map(len, due))
        self._sink.write(b"\n".join(due) + b"\n")
        self.num_written += len(due)

    def finish(self) -> None:
        """All rows were given: publish the output."""
        self.flush()
        assert not self._early, f"row {self._next} is missing"
        self._sink.finish()
