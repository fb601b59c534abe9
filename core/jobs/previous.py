"""The rows of a finished output that is answered anew in part: --retry-errors and --redo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from ..errors import RECORD_ERROR_CODES, ConfigError, RecordError
from .decompress import Decompressed
from .lines import LineReader
from .record import Record
from .row import Row
from .source import InputFile
from .tally import Tally
from .tasks.rows import error_line

#: No row of ours is longer: what a row may hold is bounded by the input line and the output tokens.
_MAX_ROW = 1 << 30


class FinishedOutput:
    """The rows of a finished output, in order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._source = InputFile(name)
        self._lines = LineReader(Decompressed(self._source), _MAX_ROW)

    def __iter__(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """(bytes, parsed) of each row. Raises ConfigError for what is no row."""
        number = 0
        while (line := self._lines.next()) is not None:
            number += 1
            try:
                row = orjson.loads(line.data or b"")
                if not _is_row(row):
                    raise ValueError
            except ValueError:
                raise ConfigError(f"{self.name!r} is no output of infer: line {number:,} is not a row") from None
            assert line.data is not None
            yield line.data, row

    def close(self) -> None:
        self._source.close()


def count_errors(name: str) -> tuple[int, int]:
    """(rows, failed rows) of a finished output."""
    output = FinishedOutput(name)
    try:
        failed = [row["error"] is not None for _, row in output]
        return len(failed), sum(failed)
    finally:
        output.close()


class Previous:
    """Keeps the rows of a finished output but those that `again` asks for.

    Args:
        again: whether a row's record is to be answered anew.
    """

    def __init__(self, output: FinishedOutput, again: Callable[[dict[str, Any]], bool]) -> None:
        self._output = output
        self._rows = enumerate(output)
        self._again = again

    def row_of(self, record: Record) -> Row | None:
        """The row to keep for a record; None if it is answered anew. Records come in order.

        Raises ConfigError if the rows belong to another input.
        """
        for ordinal, (data, row) in self._rows:
            if ordinal < record.ordinal:
                continue
            if row.get("index", record.index) != record.index:
                raise ConfigError(f"{self._output.name!r} is not the output of this input: row {ordinal:,} has index {row['index']}")
            return None if self._again(row) else _kept(record, data, row)
        return None  # the input has grown since

    def check_end(self, num_records: int) -> None:
        """Raises ConfigError if there are more rows than records; not all rows need have been asked for."""
        if any(ordinal >= num_records for ordinal, _ in self._rows):
            raise ConfigError(f"{self._output.name!r} has more rows than the input has records; is it the output of another input?")


def wants_again(*, errors: bool, finish_reason: str | None) -> Callable[[dict[str, Any]], bool]:
    """For `Previous`: rows that failed, rows with a choice that ended for `finish_reason`."""

    def again(row: dict[str, Any]) -> bool:
        if row["error"] is not None:
            return errors
        return finish_reason is not None and any(c.get("finish_reason") == finish_reason for c in _body(row).get("choices") or ())

    return again


def _is_row(row: Any) -> bool:
    """Whether a parsed line has what is read of it here, as all our lines have."""
    if not isinstance(row, dict) or "error" not in row:
        return False
    error = row["error"]
    if error is not None:
        return isinstance(error, dict) and error.get("code") in RECORD_ERROR_CODES and isinstance(error.get("message"), str)
    body = _body(row)
    choices, usage = body.get("choices") or [], body.get("usage") or {}
    return (
        isinstance(choices, list)
        and all(isinstance(choice, dict) and isinstance(choice.get("finish_reason"), (str, type(None))) for choice in choices)
        and isinstance(usage, dict)
        and all(isinstance(usage.get(name, 0), int) for name in ("prompt_tokens", "completion_tokens"))
    )


def _body(row: dict[str, Any]) -> dict[str, Any]:
    """The part with choices and usage; OpenAI Batch lines wrap it."""
    response = row.get("response")
    body = response.get("body") if isinstance(response, dict) else row
    return body if isinstance(body, dict) else {}


def _kept(record: Record, data: bytes, row: dict[str, Any]) -> Row:
    error = row["error"]
    if error is not None:
        known = RecordError(error["code"], error["message"], param=error.get("param"), retryable=bool(error.get("retryable")))
        return Row(record.ordinal, data, record.chain, Tally.of_error(record.size, record.line, known), error_line(record.raw, known))
    body = _body(row)
    usage = body.get("usage") or {}
    tally = Tally(num_answered=1, bytes_done=record.size)
    tally.prompt_tokens, tally.output_tokens = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    tally.finish_reasons.update(c.get("finish_reason") or "unknown" for c in body.get("choices") or ())
    return Row(record.ordinal, data, record.chain, tally)
