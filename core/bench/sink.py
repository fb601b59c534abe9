"""An output whose rows are measured and thrown away."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from ..jobs.output.spill_index import SpillIndex
from ..jobs.row import Row


class Sink:
    """Takes rows as a file would and keeps their hash: runs that are alike can be told to be."""

    def __init__(self) -> None:
        self.spilled = SpillIndex()
        self.num_rows = 0
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of the bytes so far: those of the output file."""
        return self._hash.hexdigest()

    def write(self, rows: Sequence[Row]) -> None:
        self.num_rows += len(rows)
        self._hash.update(b"".join([row.data + b"\n" for row in rows]))

    def checkpoint(self, fresh: Iterable[Row], *, force: bool = False) -> bool:
        return True

    def fetch(self, ordinal: int) -> Row:
        raise AssertionError("nothing is spilled here")

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass
