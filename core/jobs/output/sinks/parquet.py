"""A Parquet file of vectors: one row a record, with the columns of a table of `infer embed`, of which `embedding` is the vector.

Row groups have a fixed number of rows, so that a file is written, and can be read, a group at a time. The same rows give the same
bytes: nothing in the file says when or where it was made.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from ....errors import ConfigError
from ..tables.arrow import arrays_of, fields_of
from ..tables.cells import cells_of
from ..tables.columns import columns_of
from .matrix import Matrix

#: The column of the vectors.
EMBEDDING = "embedding"

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
    """The matrix with what its file of ids says: ids, the fields of records, usage and errors."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = columns_of(map(cells_of, matrix.ids()), "embed")
    vectors = next(i for i, column in enumerate(columns.columns) if column.name == EMBEDDING)
    told = fields_of(columns)
    fields = [
        *told[:vectors],
        pa.field(EMBEDDING, pa.list_(pa.from_numpy_dtype(matrix.stored_dtype), matrix.columns)),
        *told[vectors + 1 :],
    ]
    schema = pa.schema(fields, metadata=dict(sorted(matrix.description().items())))
    names = [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in fields if field.name != EMBEDDING]
    ids, group = matrix.ids(), group_rows(matrix.row_bytes)
    with parquet.ParquetWriter(
        pa.PythonFile(Stream(write), mode="w"),
        schema,
        compression={**dict.fromkeys(names, "zstd"), f"{EMBEDDING}.list.element": "none"},  # there is nothing to squeeze out of vectors
        use_dictionary=names,
        write_statistics=names,
        version="2.6",
    ) as writer:
        for start in range(0, matrix.num_rows, group):
            count = min(group, matrix.num_rows - start)
            rows = [columns.values(cells_of(row)) for row in islice(ids, count)]
            arrays = arrays_of(columns, rows, told)
            flat = pa.array(matrix.values(start, count).reshape(-1))
            arrays[vectors] = pa.FixedSizeListArray.from_arrays(flat, matrix.columns)
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=group)


def group_rows(row_bytes: int) -> int:
    """Rows of a row group whose vectors have so many bytes."""
    fit = max(_GROUP_BYTES // max(row_bytes, 1), 1)
    return min(1 << (fit.bit_length() - 1), _MAX_GROUP)


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
