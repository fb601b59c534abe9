"""An output whose OUT is made of all rows at the end: a matrix of vectors, or a table.

OUT.partial            rows so far
OUT.partial.made       OUT while it is made of them
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from . import faults
from .files import is_there
from .making import Making, is_whole
from .output import JobOutput
from .sinks.sink import Sink

MADE_SUFFIX = ".partial.made"


class MadeOutput(JobOutput):
    """See `JobOutput`."""

    def __init__(self, name: str, *, sink: Sink, **how: Any) -> None:
        self._making: Making | None = None
        super().__init__(name, sink=sink, **how)

    @property
    def made(self) -> Path:
        return self.beside(MADE_SUFFIX)

    @property
    def own_paths(self) -> list[Path]:
        return [*super().own_paths, self.made]

    def refuse_files_in_the_way(self, *, replace_errors: bool = False, overwrite: bool = False) -> None:
        super().refuse_files_in_the_way(replace_errors=replace_errors, overwrite=overwrite)
        if is_there(self.made) and not overwrite:
            raise ConfigError(f"{str(self.made)!r} is needed for output {self.name!r} but exists already; move it away, or use --overwrite")

    @property
    def _not_whole(self) -> Path:
        return self.made

    @property
    def _unfinished_paths(self) -> list[Path]:
        return [*super()._unfinished_paths, self.made]

    @property
    def _bytes_to_make(self) -> int:
        return self._state.out_bytes

    def _is_whole(self) -> bool:
        return is_whole(self._files, self.target, self.journal_path, matrix=True)

    def _write_made(self, write_all: Callable[[Callable[[bytes], None]], None]) -> Path:
        """Has `write_all` write what is to become OUT beside it, and says so in the journal."""
        assert self._journal is not None
        sync = self._fsync != "never"
        self._making = making = Making(self._files, self.made)
        making.make(write_all, sync=sync)
        faults.fault("made")
        self.sha256 = making.sha256
        if self._state.rows:  # without any there is no journal to tell
            self._journal.made(making.num_bytes, making.sha256.hexdigest())
            self._journal.write()
            if sync:
                self._journal.sync()
        faults.fault("told")
        return making.path

    def _close_files(self) -> None:
        super()._close_files()
        if self._making and not self.published:
            with contextlib.suppress(OSError):
                self._files.remove(self._making.path)  # it can be made again, and may be what filled the disk
