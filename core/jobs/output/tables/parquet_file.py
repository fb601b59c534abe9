"""A Parquet file with a column for each of a table's. Row groups end where the rows say, so the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ...jsonl import exact
from ..sinks.parquet import Stream
from .arrow import arrays_of, fields_of
from .cells import cells_of
from .columns import Columns

#: A row group ends with the row that makes its lines so long, or that is the last it may have.
_GROUP_BYTES = 16 << 20
_MAX_GROUP = 1 << 17


def write_parquet(columns: Columns, lines: Iterable[bytes], write: Callable[[bytes], None]) -> None:
    """All rows, a group at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    fields = fields_of(columns)
    schema = pa.schema(fields)
    rows: list[list[Any]] = []
    size = 0
    with parquet.ParquetWriter(pa.PythonFile(Stream(write), mode="w"), schema, compression="zstd", version="2.6") as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_arrays(arrays_of(columns, rows, fields), schema=schema))
            rows.clear()

        for line in lines:
            rows.append(columns.values(cells_of(exact(line))))
            size += len(line)
            if size >= _GROUP_BYTES or len(rows) == _MAX_GROUP:
                flush()
                size = 0
        if rows:
            flush()
