"""Any task, as a run sees it: records in, rows out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..record import Record
from ..row_format import RowFormat
from ..tally import Tally

if TYPE_CHECKING:
    from .base import RecordOptions


class AnyTask(Protocol):
    """What it keeps of a record (a Pending) is its own kind, and so is the answer of its engine."""

    @property
    def options(self) -> RecordOptions:
        """How records are read and rows written."""

    @property
    def rows(self) -> RowFormat:
        """How answers and errors become the bytes of rows."""

    @property
    def waits(self) -> bool:
        """True as soon as `prepare` may wait for files and other machines. It is then called beside the steps, in another thread."""

    def prepare(self, records: Sequence[Record]) -> list[Any]:
        """Each record with its prompt as token ids, or its error. Never raises for what a record holds."""

    def to_row(self, pending: Any, output: Any) -> dict[str, Any]:
        """The output line of an answered record, before it is bytes. Raises RecordError."""

    def tally(self, pending: Any, output: Any) -> Tally:
        """The counts of an answered record."""
