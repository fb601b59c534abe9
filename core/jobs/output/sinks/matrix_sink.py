"""Rows of numbers that become one file at the end: npy, safetensors or Parquet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ....errors import ConfigError, nearest
from ...jsonl import spelled
from ...row import Row
from .sink import Stored

FORMATS = ("npy", "safetensors", "parquet")


class MatrixSink:
    """Bytes of vectors in OUT.partial, one after the other; `describe` says how long they are before OUT is made.

    Args:
        name: one of FORMATS.
        dtype: of the values, one of `vectors.DTYPES`.

    Raises ConfigError for a name or type there is not, or a format that needs a library that is not installed.
    """

    frame_bytes = 0
    compression = "none"

    def __init__(self, name: str, dtype: str) -> None:
        from .vectors import DTYPES  # numpy: only where there are vectors

        if name not in FORMATS:
            raise ConfigError(f"unknown output format {name!r}{nearest(name, FORMATS)} (known: jsonl, {', '.join(FORMATS)})")
        if dtype not in DTYPES:
            raise ConfigError(f"unknown embedding dtype {dtype!r}{nearest(dtype, DTYPES)} (known: {', '.join(DTYPES)})")
        if name == "parquet":
            from .parquet import require_pyarrow

            require_pyarrow()
        self.name = name
        self.dtype = dtype
        self.size = 0  # of an output of no rows nobody may know more
        self._meta: dict[str, str] = {}

    def describe(self, size: int, meta: Mapping[str, str]) -> None:
        """Values of a vector, and what else readers may want to know."""
        self.size, self._meta = size, spelled(dict(meta))

    @property
    def layout(self) -> dict[str, str | int]:
        """The layout, which must be the same when an unfinished output is continued."""
        return {"size": self.size, "dtype": self.dtype}

    def frame(self, rows: Sequence[Row]) -> bytes:
        return b"".join([row.data for row in rows])

    def make(self, stored: Stored, write: Callable[[bytes], None]) -> None:
        """Writes OUT from the rows on disk, a piece at a time."""
        from .matrix import Matrix
        from .npy import write_npy
        from .parquet import write_parquet
        from .safetensors import write_safetensors

        makers = {"npy": write_npy, "safetensors": write_safetensors, "parquet": write_parquet}
        makers[self.name](Matrix(stored, self.size, self.dtype, self._meta), write)
