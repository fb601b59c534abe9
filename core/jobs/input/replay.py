"""Going on with an input that was partly answered before: the same records again, checked, without those that are done."""

from __future__ import annotations

from ..identity import changed_input
from ..output.journal import Recovered
from ..record import Record
from .reader import RecordReader


def replay(reader: RecordReader, recovered: Recovered, *, force: bool = False) -> None:
    """Leaves to the reader the records that an unfinished run left to answer.

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
    reader.put_back(backlog)
