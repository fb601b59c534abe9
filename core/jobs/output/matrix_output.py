"""The output of a job whose rows are vectors: OUT is one matrix, made of all rows at the end.

OUT.partial            rows so far, one after the other
OUT.partial.made       OUT while it is made of them
OUT.ids.jsonl          whose each row is, and errors; grows as OUT.ids.jsonl.partial
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .made_output import MadeOutput
from .side_file import SideFile
from .sinks.matrix_sink import MatrixSink
from .sinks.sink import Stored

IDS_SUFFIX = ".ids.jsonl"


class MatrixOutput(MadeOutput):
    """See `JobOutput`. `describe` says how long the vectors are before `begin` or `resume`."""

    sink: MatrixSink
    hashes_rows = False

    def describe(self, size: int, meta: Mapping[str, str]) -> None:
        """Values of a vector, and what readers of the file may want to know of how it was made."""
        self.sink.describe(size, meta)

    @property
    def ids_path(self) -> Path:
        return self.beside(IDS_SUFFIX)

    def _side_files(self, errors: str | None) -> list[SideFile]:
        what = f"{str(self.ids_path)!r}, which belongs to output {self.name!r},"
        return [*super()._side_files(errors), SideFile("ids", self.ids_path, lambda row: row.side, what, self._files)]

    def _make(self) -> Path:
        ids = next(side.fd for side in self._sides if side.name == "ids")
        stored = Stored(self._files, self._out, ids, self._state.rows, self._state.out_bytes)
        return self._write_made(lambda write: self.sink.make(stored, write))

    def _clean(self) -> None:
        self._files.remove(self.partial)
        super()._clean()
