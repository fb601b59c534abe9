"""The rows of a finished output that is gone on with, or answered anew in part: --resume, --retry-errors and --redo."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from ...errors import RECORD_ERROR_CODES, ConfigError, RecordError
from ..identity import changed_input
from ..input.decompress import Decompressed
from ..input.lines import SHORT_DIGEST_BYTES, LineReader
from ..input.source import InputFile
from ..record import Record
from ..row import Row
from ..row_format import with_error
from ..tally import Tally
from ..tasks.rows import error_line
from .job_note import JobNote

#: No row of ours is longer: what a row may hold is bounded by the input line and the output tokens.
_MAX_ROW = 1 << 30
#: The place of a record in the id of an OpenAI Batch row: infer-<fingerprint>-<index>.
_BATCH_ID = re.compile(r"infer-[0-9a-f]+-([0-9]+)")


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
                row = with_error(orjson.loads(line.data or b""))
                if not _is_row(row):
                    raise ValueError
            except ValueError:
                raise ConfigError(f"{self.name!r} is not an output of infer: line {number:,} is not a row") from None
            assert line.data is not None
            yield line.data, row

    def close(self) -> None:
        self._source.close()


def count_rows(name: str) -> Tally:
    """The answered and the failed rows of a finished output. Raises ConfigError for what is none."""
    output, tally = FinishedOutput(name), Tally()
    try:
        for _, row in output:
            if row["error"] is None:
                tally.num_answered += 1
            else:
                tally.num_failed += 1
    finally:
        output.close()
    return tally


@dataclass(frozen=True)
class Again:
    """A choice of rows of a finished output that are answered anew; by default none.

    Args:
        errors: those that failed.
        finish_reason: those with a choice that ended so.
        changed: those whose record is another line than it was.
    """

    errors: bool = False
    finish_reason: str | None = None
    changed: bool = False

    @property
    def is_asked(self) -> bool:
        """True if any are asked for."""
        return self.errors or self.changed or self.finish_reason is not None

    def wants(self, row: Mapping[str, Any]) -> bool:
        """True if a row is asked for, whatever its record is now."""
        if row["error"] is not None:
            return self.errors
        reason = self.finish_reason
        return reason is not None and reason in _reasons(_body(row))

    def __str__(self) -> str:
        asked = ["failed records"] * self.errors + ["changed records"] * self.changed
        asked += [] if self.finish_reason is None else [f"records that ended by {self.finish_reason}"]
        return f"{' and '.join(asked)} anew" if asked else "new records alone"

    def to_json(self) -> dict[str, Any]:
        """For a journal."""
        return asdict(self)


class Previous:
    """Keeps the rows of a finished output but those that are to be answered anew.

    Args:
        output: its rows.
        note: what it says of itself; None: only ids and places tell whose a row is.
        again: which rows are answered anew.
        force: keep rows though their records changed, but for those that have another id.
    """

    def __init__(self, output: FinishedOutput, note: JobNote | None, again: Again, *, force: bool = False) -> None:
        self._output = output
        self._rows = enumerate(output)
        self._note = note
        self._again = again
        self._force = force
        self._kept = Tally()

    def close(self) -> None:
        """Reads no more."""
        self._output.close()

    def row_of(self, record: Record) -> Row | None:
        """The row to keep for a record; None if it is answered anew. Records come in order.

        Raises ConfigError if the row is of another record than it.
        """
        for ordinal, (data, row) in self._rows:
            if ordinal < record.ordinal:
                continue
            if index_of(row) not in (None, record.index):
                raise changed_input(f"row {ordinal + 1:,} of {self._output.name!r} is of record {index_of(row)}, not {record.index}")
            changed = self._is_changed(record, row)
            if self._again.wants(row) or (changed and self._again.changed):
                return None
            if changed and (not self._force or _has_other_id(record, row)):
                way = "--redo changed" if row["error"] is None else "--retry-errors"
                how = f"line {record.line:,}{_named(record)} is not what it was when {self._output.name!r} answered it"
                raise changed_input(how, f"answer it anew with {way}")
            return self._keep(kept_row(record, data, row))
        return None  # the input has grown since

    def check_end(self, num_records: int) -> None:
        """Raises ConfigError if there are more rows than records; not all rows need have been asked for."""
        if any(ordinal >= num_records for ordinal, _ in self._rows):
            raise too_many_rows(self._output.name, num_records)

    def _is_changed(self, record: Record, row: Mapping[str, Any]) -> bool:
        if self._note is not None:
            return self._note.digest_of(record.ordinal) != record.digest[:SHORT_DIGEST_BYTES]
        return _has_other_id(record, row)

    def _keep(self, row: Row) -> Row:
        """The row; the last one brings what the note counted and rows do not tell, if all are kept."""
        self._kept.add(row.tally)
        if self._note is not None and row.ordinal == self._note.records - 1:
            whole = Tally.from_entry(self._note.tally)
            if whole.num_records == self._kept.num_records:
                row.tally.add(whole.less(self._kept))
        return row


def too_many_rows(name: str, num_records: int) -> ConfigError:
    """The error for an output that has more rows than there are records."""
    return changed_input(f"{name!r} has more rows than the {num_records:,} records that are selected")


#: Numbers of tokens in `usage`, and their names in a Response.
_USAGE = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}


def index_of(row: Mapping[str, Any]) -> int | None:
    """The index of the record that a row says it is of; None if it says nothing."""
    index = row.get("index")
    if index is None and isinstance(name := row.get("id"), str) and (found := _BATCH_ID.fullmatch(name)):
        return int(found[1])
    return index if isinstance(index, int) else None


def _has_other_id(record: Record, row: Mapping[str, Any]) -> bool:
    theirs = row.get("custom_id") if "response" in row else row.get("id")
    return theirs is not None and theirs not in [record.fields.get(name) for name in ("custom_id", "id")]


def _named(record: Record) -> str:
    name = record.fields.get("custom_id", record.fields.get("id"))
    return f" (id {str(name)[:60]!r})" if isinstance(name, (str, int)) else ""


def _is_row(row: Any) -> bool:
    """True if a parsed line has everything that is read of it here, as all our lines have."""
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
        and all(isinstance(usage.get(name, 0), int) for names in _USAGE.items() for name in names)
    )


def _reasons(body: Mapping[str, Any]) -> list[str]:
    """The finish_reason of each choice; that of a Response, which has none, by its status."""
    if body.get("object") == "response":
        return ["length" if body.get("status") == "incomplete" else "stop"]
    return [choice.get("finish_reason") or "unknown" for choice in body.get("choices") or ()]


def _body(row: Mapping[str, Any]) -> dict[str, Any]:
    """The part with choices and usage; OpenAI Batch lines wrap it."""
    response = row.get("response")
    body = response.get("body") if isinstance(response, dict) else row
    return body if isinstance(body, dict) else {}


def kept_row(record: Record, data: bytes, row: dict[str, Any]) -> Row:
    """A row of a finished output, for a new one; it is the record's."""
    error = row["error"]
    if error is not None:
        error = {**error, **(_body(row).get("error") or {})}  # OpenAI Batch lines tell the rest of it there
        known = RecordError(error["code"], error["message"], param=error.get("param"), retryable=bool(error.get("retryable")))
        return Row(record.ordinal, data, record.chain, Tally.of_error(record.size, record.line, known), error_line(record.raw, known))
    body = _body(row)
    usage = body.get("usage") or {}
    tally = Tally(num_answered=1, bytes_done=record.size)
    tally.prompt_tokens, tally.output_tokens = (usage.get(name, usage.get(other, 0)) for name, other in _USAGE.items())
    tally.finish_reasons.update(_reasons(body))
    return Row(record.ordinal, data, record.chain, tally)
