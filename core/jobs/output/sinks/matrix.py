"""The rows of a finished job as a matrix on disk, read piece by piece: it may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...jsonl import exact
from ..files import pieces
from .sink import Stored
from .vectors import decoded_dtype, num_columns


@dataclass(frozen=True)
class Matrix:
    """`stored.num_rows` vectors of `size` values of the type `dtype` (one of `vectors.DTYPES`); `meta` says how they were made."""

    stored: Stored
    size: int
    dtype: str
    meta: Mapping[str, str]

    def __post_init__(self) -> None:
        there, due = self.stored.num_bytes, self.num_rows * self.row_bytes
        assert there == due, f"{there} bytes of rows, not {due}"

    @property
    def num_rows(self) -> int:
        return self.stored.num_rows

    @property
    def columns(self) -> int:
        """Stored values of a row."""
        return num_columns(self.size, self.dtype)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Of a stored value."""
        return decoded_dtype(self.dtype)

    @property
    def row_bytes(self) -> int:
        return self.columns * self.stored_dtype.itemsize

    @property
    def num_bytes(self) -> int:
        return self.stored.num_bytes

    def description(self) -> dict[str, str]:
        """`meta`, and what the stored numbers are."""
        return {**self.meta, "dim": str(self.size), "dtype": self.dtype}

    def pieces(self) -> Iterator[bytes]:
        """All values, row by row."""
        return pieces(self.stored.files, self.stored.fd, self.num_bytes)

    def values(self, start: int, count: int) -> NDArray[Any]:
        """[count, columns]: some rows."""
        values = np.empty((count, self.columns), self.stored_dtype)
        rest = values.reshape(-1).view(np.uint8).data
        for piece in pieces(self.stored.files, self.stored.fd, values.nbytes, start=start * self.row_bytes):
            rest[: len(piece)], rest = piece, rest[len(piece) :]
        assert not rest, "the rows changed under our feet"
        return values

    def ids(self) -> Iterator[dict[str, Any]]:
        """The line of each row in OUT.ids.jsonl."""
        rest, start = b"", 0
        files, fd = self.stored.files, self.stored.ids_fd
        while data := files.read(fd, 1 << 20, start):
            start += len(data)
            *lines, rest = (rest + data).split(b"\n")
            yield from map(exact, lines)
        assert not rest, "a line of ids is torn"
