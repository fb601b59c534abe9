"""The noun between task and writer: one finished row of the output."""

from __future__ import annotations

from dataclasses import dataclass, field

from .tally import Tally


@dataclass(slots=True)
class Row:
    """The row of the record `ordinal`: a line without its newline, or the bytes of a vector.

    `chain` is the input's running hash after that record; `error_line` what --errors writes of a failed one; `side` its line in
    OUT.ids.jsonl, if the output has one.
    """

    ordinal: int
    data: bytes
    chain: bytes = b""
    tally: Tally = field(default_factory=Tally)
    error_line: bytes | None = None
    side: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.data) + len(self.error_line or b"") + len(self.side or b"")
