"""A Parquet file with a column for each of a table's. Row groups end where the rows say, so the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ...jsonl import exact
from ..sinks.parquet import Stream
from .cells import cells_of
from .columns import Columns
from .kinds import text_of

#: A row group ends with the row that makes its lines so long, or that is the last it may have.
_GROUP_BYTES = 16 << 20
_MAX_GROUP = 1 << 17


def write_parquet(columns: Columns, lines: Iterable[bytes], write: Callable[[bytes], None]) -> None:
    """All rows, a group at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {
        "bool": pa.bool_(),
        "int": pa.int64(),
        "float": pa.float64(),
        "text": pa.string(),
        "integers": pa.list_(pa.int64()),
        "numbers": pa.list_(pa.float64()),
        "texts": pa.list_(pa.string()),
    }
    schema = pa.schema([(_utf8(column.name), types[column.type]) for column in columns.columns])
    as_text = [column.type == "text" for column in columns.columns]
    rows: list[list[Any]] = []
    size = 0
    with parquet.ParquetWriter(pa.PythonFile(Stream(write), mode="w"), schema, compression="zstd", version="2.6") as writer:

        def flush() -> None:
            held = zip(*rows, strict=True) if rows else [()] * len(columns.columns)
            arrays = [
                pa.array(map(_text, values) if text else values, field.type)
                for values, text, field in zip(held, as_text, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            rows.clear()

        for line in lines:
            rows.append(columns.values(cells_of(exact(line))))
            size += len(line)
            if size >= _GROUP_BYTES or len(rows) == _MAX_GROUP:
                flush()
                size = 0
        if rows:
            flush()


def _text(value: Any) -> str | None:
    text = text_of(value)
    return None if text is None else _utf8(text)


def _utf8(text: str) -> str:
    """The same, half surrogate pairs replaced."""
    return text.encode("utf-8", "replace").decode()
