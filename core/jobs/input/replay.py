"""Going on with an input that was partly answered before: the same records again, checked, without those that are done."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from ..identity import changed_input
from ..output.journal import Recovered
from ..record import Record
from .reader import RecordReader


class Records(Protocol):
    """The source of a job's records: see `RecordReader`."""

    @property
    def at_end(self) -> bool: ...

    @property
    def num_blank(self) -> int: ...

    def take(self, max_records: int, max_bytes: int, *, wait: bool) -> list[Record]: ...


class Backlog:
    """A reader with records in front of it that were read before."""

    def __init__(self, reader: RecordReader, records: list[Record]) -> None:
        self._reader = reader
        self._records = deque(records)

    @property
    def at_end(self) -> bool:
        return not self._records and self._reader.at_end

    @property
    def num_blank(self) -> int:
        return self._reader.num_blank

    def take(self, max_records: int, max_bytes: int, *, wait: bool) -> list[Record]:
        if not self._records:
            return self._reader.take(max_records, max_bytes, wait=wait)
        records: list[Record] = []
        while self._records and len(records) < max_records and sum(r.size for r in records) < max_bytes:
            records.append(self._records.popleft())
        return records


def replay(reader: RecordReader, recovered: Recovered, *, force: bool = False) -> Backlog:
    """The records an unfinished run left to answer.

    Reads the input from its start up to the last record that has its row, and checks that it is what it was. Those without a
    row before it are few: they were under way when the run ended.

    Raises ConfigError if the input differs (not with `force`).
    """
    commit = recovered.commit
    there = reader.skip(commit.rows)
    if there < commit.rows:
        raise changed_input(f"{there:,} records of it are selected; the run that is resumed had answered {commit.rows:,}")
    if not force and commit.rows and reader.chain != commit.chain:
        raise changed_input(f"something in the first {commit.rows:,} records that are selected is not what it was")
    backlog: list[Record] = []
    ordinal, last = commit.rows - 1, max(recovered.spilled.ordinals(), default=-1)
    while ordinal < last:
        records = reader.take(1, 1, wait=True)
        if not records:
            raise changed_input("fewer of its records are selected than were answered")
        record = records[0]
        ordinal = record.ordinal
        if ordinal not in recovered.spilled:
            backlog.append(record)
        elif not force and record.chain != recovered.chain_of(ordinal):
            raise changed_input(f"something up to line {record.line:,} is not what it was")
    return Backlog(reader, backlog)
