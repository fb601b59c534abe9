"""The columns of a table in Arrow's types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .columns import Columns
from .kinds import text_of


def fields_of(columns: Columns) -> list[Any]:
    """A field for each column. Names and texts are UTF-8: half surrogate pairs in them are replaced."""
    import pyarrow as pa

    types = {
        "bool": pa.bool_(),
        "int": pa.int64(),
        "float": pa.float64(),
        "text": pa.string(),
        "integers": pa.list_(pa.int64()),
        "numbers": pa.list_(pa.float64()),
        "texts": pa.list_(pa.string()),
    }
    return [pa.field(_utf8(column.name), types[column.type]) for column in columns.columns]


def arrays_of(columns: Columns, rows: Sequence[Sequence[Any]], fields: Sequence[Any]) -> list[Any]:
    """An array for each column, of the values of some rows (`Columns.values`)."""
    import pyarrow as pa

    held = zip(*rows, strict=True) if rows else [()] * len(fields)
    return [
        pa.array(map(text_cell, values) if column.type == "text" else values, field.type)
        for values, column, field in zip(held, columns.columns, fields, strict=True)
    ]


def text_cell(value: Any) -> str | None:
    """A value as a cell of text: see `text_of`; UTF-8 as above."""
    text = text_of(value)
    return None if text is None else _utf8(text)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
