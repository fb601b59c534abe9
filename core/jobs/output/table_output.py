"""The output of a job whose OUT is a table of answers: CSV, TSV or Parquet, made of all rows at the end.

OUT.partial            rows so far: lines of JSON, compressed with zstd
OUT.partial.made       OUT while it is made of them
OUT.rows.jsonl.zst     the rows of a finished OUT, as they are: what goes on with it reads them, and they hold what a table cannot
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..input.decompress import Decompressed
from .files import Files, is_there
from .made_output import MadeOutput
from .sinks.table_sink import TableSink

ROWS_SUFFIX = ".rows.jsonl.zst"
#: Bytes of OUT.partial that are read at a time.
_PIECE = 1 << 18


class TableOutput(MadeOutput):
    """See `JobOutput`.

    Attributes:
        command: whose answers they are, set before OUT is made: the columns that it has in any case depend on it.
        rows_sha256: of the file of rows, once OUT is made.
    """

    sink: TableSink

    def __init__(self, name: str, *, sink: TableSink, **how: Any) -> None:
        self.command = ""
        self.rows_sha256 = ""
        super().__init__(name, sink=sink, **how)

    @property
    def rows_path(self) -> Path:
        return self.beside(ROWS_SUFFIX)

    @property
    def own_paths(self) -> list[Path]:
        return [*super().own_paths, self.rows_path]

    def refuse_files_in_the_way(self, *, replace_errors: bool = False, overwrite: bool = False) -> None:
        super().refuse_files_in_the_way(replace_errors=replace_errors, overwrite=overwrite)
        if is_there(self.rows_path) and not overwrite and not self.has_target:
            what = f"{str(self.rows_path)!r} belongs to output {self.name!r}, which is not there"
            raise ConfigError(f"{what}; move it away, or replace it with --overwrite")

    def _make(self) -> Path:
        if not self._state.rows:  # of an empty frame nobody could tell later whose it is
            self._files.truncate(self._out, 0)
            self.sha256 = hashlib.sha256()
        self.rows_sha256 = self.sha256.hexdigest()

        def source() -> Decompressed:
            return Decompressed(_Part(self._files, self._out), str(self.partial))

        return self._write_made(lambda write: self.sink.make(source, write, command=self.command))

    def _clean(self) -> None:
        if is_there(self.partial):
            self._files.rename(self.partial, self.rows_path)
        super()._clean()


class _Part:
    """A Source of the bytes of an open file."""

    def __init__(self, files: Files, fd: int) -> None:
        self._files = files
        self._fd = fd
        self._place = 0

    def read(self, size: int) -> bytes:
        data = self._files.read(self._fd, min(size, _PIECE), self._place)
        self._place += len(data)
        return data

    def ready(self, seconds: float = 0.0) -> bool:
        return True
