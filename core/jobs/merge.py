"""The shards of one job back into one output, row by row, in memory that does not grow with them.

    record k of the whole input is in shard k mod n:    0 1 2 0 1 2 0 1 …    from the first selected record on

Every row says which record it answers, and is checked to be the next one. That the shards belong together is for shards.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ..errors import ConfigError
from .identity import Identity
from .input.lines import SHORT_DIGEST_BYTES
from .input.selection import Shard
from .output.compression import FRAME_BYTES
from .output.finished import Finished
from .output.job_note import JobNote
from .output.opening import is_there
from .output.output import JobOutput
from .output.pipe import StraightOutput
from .output.previous import index_of
from .output.table_output import TableOutput
from .row import Row
from .row_format import with_error
from .shards import ShardFile, first_index, open_shards
from .tally import Tally


@dataclass(frozen=True)
class Merged:
    """The result of a merge: rows, and how many of them are errors."""

    records: int
    errors: int


def merge(names: Sequence[str], output: JobOutput | StraightOutput, shards: Sequence[ShardFile], *, overwrite: bool = False) -> Merged:
    """Writes the rows of all shards into `output`, in order, and publishes it; only looks at them if it is there, made of them.

    Raises ConfigError for a shard that is not what its note says; then nothing is published, and nothing of it stays. Where
    rows cannot be taken back (a pipe), everything is read once before the first is written.
    """
    _allow_open_files(len(shards))
    if isinstance(output, StraightOutput):
        for _ in _rows(shards):
            pass
        return _write(output, open_shards(names))
    if output.is_finished and not overwrite:
        if not _is_merged(shards, output):
            raise ConfigError(is_there(output))
        for _ in _rows(shards):  # what their notes say of them may be true no more
            pass
        output.send()  # an earlier merge may have made it and not put it in its place
        return Merged(sum(shard.note.records for shard in shards), sum(shard.note.errors for shard in shards))
    if isinstance(output, TableOutput):
        output.command = str(shards[0].note.identity.fingerprint.get("command", ""))
    try:
        output.begin({"merge": _merged(shards)})
        return _write(output, shards)
    except BaseException:
        if not output.published:  # else it is whole here, and waits for being put in its place
            output.discard()
        raise


def _write(output: JobOutput | StraightOutput, shards: Sequence[ShardFile]) -> Merged:
    due: list[bytes] = []
    size = records = errors = pieces = 0
    for row, failed in _rows(shards):
        due.append(row)
        size += len(row) + 1
        records += 1
        errors += failed
        if size >= FRAME_BYTES:  # where a frame ends anyway: the rows of one are handed on as one
            output.write([Row(pieces, b"\n".join(due))])
            due, size, pieces = [], 0, pieces + 1
    if due:
        output.write([Row(pieces, b"\n".join(due))])
    if isinstance(output, JobOutput):
        output.make()
        output.finish(_note(shards, output))
        output.send()
    else:
        output.finish()
    return Merged(records, errors)


def _is_merged(shards: Sequence[ShardFile], output: JobOutput) -> bool:
    """True if the output is there already, whole and made of these very shards."""
    finished = Finished(output)
    note = finished.note
    return note is not None and note.merged == _merged(shards) and finished.is_intact and note.output_format == output.sink.name


def _merged(shards: Sequence[ShardFile]) -> list[str]:
    return [shard.note.sha256 for shard in shards]


def _note(shards: Sequence[ShardFile], output: JobOutput) -> JobNote:
    """The note that a single run would leave beside the output."""
    first, records, tally = shards[0].note, sum(shard.note.records for shard in shards), Tally()
    digests = bytearray(records * SHORT_DIGEST_BYTES)
    for shard in shards:
        tally.add(Tally.from_entry(shard.note.tally))
        place = (shard.note.shard.index - first.offset) % len(shards)
        for byte in range(SHORT_DIGEST_BYTES):
            digests[place * SHORT_DIGEST_BYTES + byte :: len(shards) * SHORT_DIGEST_BYTES] = shard.note.digests[byte::SHORT_DIGEST_BYTES]
    identity = first.identity
    return JobNote(
        Identity(
            identity.fingerprint,
            {**identity.place, "shard": str(Shard(0, 1))},
            {**identity.file, "output format": output.sink.name, "compression": output.sink.compression},
            {**identity.frames, "errors file": False},
        ),
        records=records,
        total_seen=first.total_seen,
        input_chain=first.input_chain,
        sha256=output.sha256.hexdigest(),
        tally=tally.to_entry(),
        time=first.time,
        attempts=max(shard.note.attempts for shard in shards),
        run_s=round(sum(shard.note.run_s for shard in shards), 3),
        limit=first.limit,
        merged=_merged(shards),
        digests=bytes(digests),
        rows_sha256=output.rows_sha256 if isinstance(output, TableOutput) else "",
    )


def _rows(shards: Sequence[ShardFile]) -> Iterator[tuple[bytes, bool]]:
    """All rows in order, and whether each is an error. Raises ConfigError, at the end at the latest, if a shard is not whole."""
    rows = [shard.rows() for shard in shards]
    failed = [0] * len(shards)
    for index in range(first_index(shards), shards[0].note.total_seen):
        which = index % len(shards)
        row = next(rows[which])  # there is one, or rows() raises
        error = _check_row(row, index, shards[which].name)
        failed[which] += error
        yield row, error
    for shard, rest, errors in zip(shards, rows, failed, strict=True):
        for _ in rest:  # reads on to the end, where the file is held against its note
            pass
        if errors != shard.note.errors:
            raise ConfigError(f"shard {shard.name!r} has {errors:,} error rows; its note says {shard.note.errors:,}")


def _allow_open_files(count: int) -> None:
    """All shards are open at once, and systems allow a process fewer files than it may ask for."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count + 64), hard), hard))


def _check_row(row: bytes, index: int, name: str) -> bool:
    """True if it is an error row. Raises ConfigError if it is not the row of record `index`."""
    try:
        fields: dict[str, Any] = with_error(orjson.loads(row))
        place = index_of(fields)
        failed: bool = fields["error"] is not None
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        place = None
    if place is None:
        raise ConfigError(f"shard {name!r}: the row in the place of record {index:,} is not an answer")
    if place != index:
        raise ConfigError(f"shard {name!r}: record {place} is where record {index:,} should be")
    return failed
