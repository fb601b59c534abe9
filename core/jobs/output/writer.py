"""Rows in any order in, rows in input order out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from ..row import Row
from .spill_index import SpillIndex

#: Rows that wait for an earlier one are held in memory up to so many or so many bytes; beyond that only where they can be fetched from.
HELD_ROWS = 4096
HELD_BYTES = 16 << 20
#: Bytes handed to the output in one piece.
_PIECE = 4 << 20


class Output(Protocol):
    """The writer's side of an output."""

    spilled: SpillIndex
    """Rows that can be fetched back: finished, not written, not held in memory."""

    @property
    def num_rows(self) -> int:
        """Rows in it so far: the ordinal of the next."""

    def write(self, rows: Sequence[Row]) -> None:
        """The next rows, in order. Raises OutputError, or BrokenPipeError when nobody reads any more."""

    def checkpoint(self, fresh: Iterable[Row], *, force: bool = False) -> bool:
        """Makes what was finished survive, `fresh` rows included whether written or not; False if it is too early for that."""

    def fetch(self, ordinal: int) -> Row:
        """A spilled row."""

    def finish(self) -> None:
        """Nothing more comes: make the output what its name promises."""

    def close(self) -> None:
        """Let go of it, finished or not. Never raises."""


class OrderedWriter:
    """Takes the row of each ordinal once, in any order, and hands them to the output in order.

    Goes on at the output's next row; rows the output has spilled count as given.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._early: dict[int, Row] = {}
        self._fresh: list[Row] = []
        self._next = output.num_rows
        self.bytes_held = 0

    @property
    def num_held(self) -> int:
        """Rows in memory that wait for an earlier one."""
        return len(self._early)

    @property
    def num_written(self) -> int:
        return self._next

    def put(self, row: Row) -> None:
        """Reaches the output with the next `flush`."""
        ordinal = row.ordinal
        assert ordinal >= self._next, f"row {ordinal} was written already"
        assert ordinal not in self._early, f"row {ordinal} was given twice"
        assert ordinal not in self._output.spilled, f"row {ordinal} was given in an earlier attempt"
        self._early[ordinal] = row
        self._fresh.append(row)
        self.bytes_held += row.size

    def flush(self, *, force: bool = False) -> bool:
        """Writes rows whose turn has come, and makes all that were given survive a kill (`force`: now, not within moments).

        Returns whether there are more to write: a long queue goes out piece by piece, so that a commit, or an interrupt, never
        waits for all of it.
        """
        rows = self._due()
        if rows:
            self._output.write(rows)
        if (rows or self._fresh or force) and self._output.checkpoint(self._fresh, force=force):
            self._fresh = []
            if len(self._early) > HELD_ROWS or self.bytes_held > HELD_BYTES:
                self._let_go()
        return self._next in self._early or self._next in self._output.spilled

    def finish(self) -> None:
        """All rows were given and flushed: they will survive whatever comes before the output is published."""
        while self.flush():
            pass
        self.flush(force=True)
        assert not self._early, f"row {self._next} is missing"

    def _due(self) -> list[Row]:
        """The next rows in order, about a piece of them."""
        rows: list[Row] = []
        size = 0
        while size < _PIECE:
            row = self._early.pop(self._next, None)
            if row is not None:
                self.bytes_held -= row.size
            elif self._next in self._output.spilled:
                row = self._output.fetch(self._next)
            else:
                break
            self._next += 1
            rows.append(row)
            size += row.size
        return rows

    def _let_go(self) -> None:
        """Forgets early rows that the output can give back."""
        for ordinal in [o for o in self._early if o in self._output.spilled]:
            self.bytes_held -= self._early.pop(ordinal).size
