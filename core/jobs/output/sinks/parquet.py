"""A Parquet file: one row a record, with columns index, id, embedding and error.

Row groups have a fixed number of rows, so that a file is written, and can be read, a group at a time. The same rows give the same
bytes: nothing in the file says when or where it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from ....errors import ConfigError
from ...row_format import with_error
from .matrix import Matrix

#: A row group has as many rows as fit here, a power of two of them.
_GROUP_BYTES = 16 << 20
_MAX_GROUP = 1 << 17


def require_pyarrow() -> None:
    """Raises ConfigError if Parquet cannot be written."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"Parquet needs pyarrow, which cannot be imported ({error}); pip install 'infer-jsonl[parquet]'") from None


def write_parquet(matrix: Matrix, write: Callable[[bytes], None]) -> None:
    """The matrix with its ids and errors."""
    import pyarrow as pa
    from pyarrow import parquet

    values = pa.from_numpy_dtype(matrix.stored_dtype)
    columns = [("index", pa.int64()), ("id", pa.string()), ("embedding", pa.list_(values, matrix.columns)), ("error", pa.string())]
    schema = pa.schema(columns, metadata=dict(sorted(matrix.description().items())))
    ids, group = matrix.ids(), group_rows(matrix.row_bytes)
    told = ["index", "id", "error"]
    with parquet.ParquetWriter(
        pa.PythonFile(Stream(write), mode="w"),
        schema,
        compression={**dict.fromkeys(told, "zstd"), "embedding.list.element": "none"},  # there is nothing to squeeze out of vectors
        use_dictionary=["error"],
        write_statistics=told,
        version="2.6",
    ) as writer:
        for start in range(0, matrix.num_rows, group):
            count = min(group, matrix.num_rows - start)
            flat = pa.array(matrix.values(start, count).reshape(-1))
            vectors = pa.FixedSizeListArray.from_arrays(flat, matrix.columns)
            index, names, errors = _columns(islice(ids, count))
            arrays = [pa.array(index, pa.int64()), pa.array(names, pa.string()), vectors, pa.array(errors, pa.string())]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=group)


def group_rows(row_bytes: int) -> int:
    """Rows of a row group whose vectors have so many bytes."""
    fit = max(_GROUP_BYTES // max(row_bytes, 1), 1)
    return min(1 << (fit.bit_length() - 1), _MAX_GROUP)


def _columns(ids: Iterable[dict[str, Any]]) -> tuple[list[int], list[str | None], list[str | None]]:
    """index, id and error of some rows; an id that is a number is written as JSON has it."""
    index: list[int] = []
    names: list[str | None] = []
    errors: list[str | None] = []
    for row in map(with_error, ids):
        name, error = row.get("id", row.get("custom_id")), row.get("error")
        index.append(row["index"])
        names.append(None if name is None else str(name))
        errors.append(None if error is None else f"{error['code']}: {error['message']}")
    return index, names, errors


class Stream:
    """A file that is written from start to end, as pyarrow needs it."""

    closed = False

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._size = 0

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._write(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
