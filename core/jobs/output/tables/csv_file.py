"""CSV as RFC 4180 has it, in UTF-8, lines ended by \\n; TSV is the same with tabs. Nothing is an empty cell, an empty text is "".

Text is written as it is: line breaks, quotes and delimiters in it are quoted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..compression import FRAME_BYTES, encoder
from .columns import Columns, rows_of
from .kinds import text_of


def write_csv(columns: Columns, lines: Iterable[bytes], write: Callable[[bytes], None], *, delimiter: str, compression: str) -> None:
    """A header, and a row for each line. `compression`: none, gzip or zstd."""
    encode, _ = encoder(compression)
    due: list[str] = []
    size = 0

    def row(values: Iterable[Any]) -> str:
        return delimiter.join([_cell(value, delimiter) for value in values]) + "\n"

    def flush() -> None:
        write(encode("".join(due).encode("utf-8", "replace")))
        due.clear()

    due.append(row(column.name for column in columns.columns))
    for cells in rows_of(lines):
        due.append(row(columns.values(cells)))
        size += len(due[-1])
        if size >= FRAME_BYTES:
            flush()
            size = 0
    if due:
        flush()


def _cell(value: Any, delimiter: str) -> str:
    if value is None:
        return ""
    text = text_of(value) or ""
    if text and delimiter not in text and '"' not in text and "\n" not in text and "\r" not in text and text == text.strip():
        return text
    return '"' + text.replace('"', '""') + '"'
