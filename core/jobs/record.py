"""The noun of the job layer: one non-blank input line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..containment import own_error
from ..errors import RecordError
from .jsonl import loads, wrong_type

#: Integers from here on are rounded by programs that read JSON numbers as doubles, so they cannot be ids.
MAX_ID = 2**53


@dataclass(slots=True)
class InputLine:
    """A non-blank line of the input, and where it stands.

    Args:
        index: its place among the non-blank lines of the whole input, whatever part of it is selected.
        line: its 1-based number among all lines of its file (what an editor shows).
        size: the bytes it took in the input, line end included.
        ordinal: its place among the records this run selected; the index where all are.
        source: the name of its input where there are several, else empty.
        chain: 16 bytes, hash of all selected lines of the input up to this one.
        raw: the line without its end (empty if it was over-long), if the reader was asked to keep it.
    """

    index: int
    line: int
    size: int
    ordinal: int = -1
    source: str = ""
    chain: bytes = b""
    raw: bytes | None = None

    def __post_init__(self) -> None:
        if self.ordinal < 0:
            self.ordinal = self.index

    @property
    def called(self) -> str:
        """Its name in messages."""
        return f"record {self.index} (line {self.line})"


@dataclass(slots=True)
class Record(InputLine):
    """An input line with its fields, or the reason why there are none.

    Args:
        fields, error: its content, or what is wrong with it.
        digest: 16 bytes, hash of the line.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    error: RecordError | None = None
    digest: bytes = b""

    @classmethod
    def parse(cls, index: int, line: int, size: int, data: bytes) -> Record:
        """The record on the line `data`."""
        record = cls(index, line, size)
        record.read(data)
        return record

    def read(self, data: bytes) -> None:
        """Sets `fields` or `error` from the line `data`."""
        try:  # as `contained` does, at a third of its price
            self.fields = loads(data)
        except BaseException as error:
            self.error = own_error(error, self.called)

    def take_id(self, name: str = "id") -> str | int | None:
        """The record's own id; None when it has none (or null). Raises RecordError for what is no faithful id."""
        value = self.fields.get(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(name, "a string or an integer", value)
        if abs(value) >= MAX_ID:
            raise RecordError(
                "invalid_value", f"{name} must be below 2^53 (larger ones are rounded by many readers): use a string", param=name
            )
        return value
