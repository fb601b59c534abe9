"""An output that keeps nothing: `-`, a FIFO, a device."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from ...errors import OutputError
from ..jsonl import escape_for_terminal
from ..row import Row
from .spill_index import SpillIndex


class StraightOutput:
    """Bytes go out as they come, to a descriptor or to a stream that has none."""

    def __init__(self, name: str, fd: int, stream: BinaryIO | None = None, *, owned: bool) -> None:
        self.name = name
        self.spilled = SpillIndex()
        self.num_rows = 0
        self.is_terminal = fd >= 0 and os.isatty(fd)
        self._fd, self._stream, self._owned = fd, stream, owned
        self._num_bytes = 0

    def write(self, rows: Sequence[Row]) -> None:
        data = b"".join([row.data + b"\n" for row in rows])
        if self.is_terminal:
            data = escape_for_terminal(data)
        self.num_rows += len(rows)
        self._num_bytes += len(data)
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
            raise OutputError(f"output {self.name!r} cannot be written after {self._num_bytes:,} bytes: {error.strerror}") from None

    def checkpoint(self, fresh: Iterable[Row], *, force: bool = False) -> bool:
        return True

    def fetch(self, ordinal: int) -> Row:
        raise AssertionError("nothing is spilled here")

    def finish(self) -> None:
        if self._fd < 0:
            return
        try:
            os.close(os.dup(self._fd))  # some systems say only on closing that writing failed
        except OSError as error:
            raise OutputError(f"output {self.name!r} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        if self._owned and self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1
