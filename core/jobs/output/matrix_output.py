"""The output of a job whose rows are vectors: OUT is one matrix, made of all rows at the end.

OUT.partial            rows so far, one after the other
OUT.partial.made       OUT while it is made of them
OUT.ids.jsonl          whose each row is, and errors; grows as OUT.ids.jsonl.partial
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from . import faults
from .files import is_there
from .making import Making, is_whole
from .output import JobOutput
from .side_file import SideFile
from .sinks.matrix_sink import MatrixSink
from .sinks.sink import Stored

MADE_SUFFIX = ".partial.made"
IDS_SUFFIX = ".ids.jsonl"


class MatrixOutput(JobOutput):
    """See `JobOutput`. `describe` says how long the vectors are before `begin` or `resume`."""

    sink: MatrixSink
    hashes_rows = False

    def __init__(self, name: str, *, sink: MatrixSink, **how: Any) -> None:
        self._making: Making | None = None
        super().__init__(name, sink=sink, **how)

    def describe(self, size: int, meta: Mapping[str, str]) -> None:
        """Values of a vector, and what readers of the file may want to know of how it was made."""
        self.sink.describe(size, meta)

    @property
    def made(self) -> Path:
        return self.beside(MADE_SUFFIX)

    @property
    def ids_path(self) -> Path:
        return self.beside(IDS_SUFFIX)

    def _side_files(self, errors: str | None) -> list[SideFile]:
        what = f"{str(self.ids_path)!r}, which belongs to output {self.name!r},"
        return [*super()._side_files(errors), SideFile("ids", self.ids_path, lambda row: row.side, what, self._files)]

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

    def _make(self) -> Path:
        """Writes what is to become OUT beside it, and says so in the journal."""
        assert self._journal is not None
        ids = next(side.fd for side in self._sides if side.name == "ids")
        sync = self._fsync != "never"
        self._making = making = Making(self._files, self.made)
        making.make(self.sink, Stored(self._files, self._out, ids, self._state.rows, self._state.out_bytes), sync=sync)
        faults.fault("made")
        self.sha256 = making.sha256
        if self._state.rows:  # without any there is no journal to tell
            self._journal.made(making.num_bytes, making.sha256.hexdigest())
            self._journal.write()
            if sync:
                self._journal.sync()
        faults.fault("told")
        return making.path

    def _clean(self) -> None:
        self._files.remove(self.partial)
        super()._clean()

    def _close_files(self) -> None:
        super()._close_files()
        if self._making and not self.published:
            with contextlib.suppress(OSError):
                self._files.remove(self._making.path)  # it can be made again, and may be what filled the disk
