"""The file of --errors beside a finished output."""

from __future__ import annotations

from pathlib import Path

import orjson

from ..input.lines import LineReader
from ..input.source import InputFile
from .previous import FinishedOutput


def is_errors_file(path: Path, output: Path) -> bool:
    """True if `path` is the --errors file of the finished `output`: one line for each failed row, with its error.

    Raises ConfigError for an output that is none.
    """
    source = InputFile(str(path))
    lines = LineReader(source)
    finished = FinishedOutput(str(output))
    try:
        for _, row in finished:
            if row["error"] is not None and not _has(lines, row["error"]):
                return False
        return lines.next() is None
    finally:
        finished.close()
        source.close()


def _has(lines: LineReader, error: dict[str, object]) -> bool:
    line = lines.next()
    try:
        told = orjson.loads(line.data or b"")["_error"] if line is not None else {}
        return all(told[name] == value for name, value in error.items())
    except (ValueError, LookupError, TypeError):
        return False
