"""The noun of the job layer: one non-blank input line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..errors import RecordError
from .jsonl import json_type, loads

#: Integers from here on are rounded by programs that read JSON numbers as doubles, so they cannot be ids.
MAX_ID = 2**53


@dataclass(slots=True)
class Record:
    """One input line: its fields, or why there are none.

    `index` is its place among the non-blank lines of the whole input, `line` its 1-based number among all lines
    (what an editor shows), `size` the bytes it took in the input, line end included.
    """

    index: int
    line: int
    size: int
    fields: dict[str, Any] = field(default_factory=dict)
    error: RecordError | None = None

    @classmethod
    def parse(cls, index: int, line: int, size: int, data: bytes) -> Record:
        try:
            return cls(index, line, size, loads(data))
        except RecordError as error:
            return cls(index, line, size, error=error)

    def take_id(self, name: str = "id") -> str | int | None:
        """The record's own id; None when it has none (or null). Raises RecordError for what is no faithful id."""
        value = self.fields.get(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise RecordError("invalid_type", f"{name} must be a string or an integer, not {json_type(value)}", param=name)
        if abs(value) >= MAX_ID:
            raise RecordError(
                "invalid_value", f"{name} must be below 2^53 (larger ones are rounded by many readers): use a string", param=name
            )
        return value
