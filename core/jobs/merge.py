"""The shards of one job back into one output, row by row, in memory that does not grow with them.

    record k of the whole input is in shard k mod n:    0 1 2 0 1 2 0 1 …    from the first selected record on

A shard is believed only if it is whole (its sha256) and of the same job over the same input as the others. Every row says
which record it answers, and is checked to be the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..errors import ConfigError, InferError
from .identity import Identity
from .input.decompress import Decompressed
from .input.lines import SHORT_DIGEST_BYTES
from .input.selection import Shard
from .input.source import InputFile
from .output.compression import FRAME_BYTES
from .output.job_note import SHARD_SUFFIX, JobNote, find_note
from .output.matrix_output import IDS_SUFFIX
from .output.opening import is_there
from .output.output import JobOutput
from .output.pipe import StraightOutput
from .output.previous import index_of
from .output.side_file import PARTIAL_SUFFIX
from .row import Row
from .row_format import with_error
from .tally import Tally

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Merged:
    """The result of a merge: rows, and how many of them are errors."""

    records: int
    errors: int


class ShardFile:
    """A finished shard: its note, and its rows read once."""

    def __init__(self, name: str) -> None:
        """Raises ConfigError if there is no such finished shard, or none of lines."""
        self.name = name
        path = Path(os.path.realpath(name))
        note = find_note(path)
        if note is None:
            raise ConfigError(_unfinished(name, path))
        self.note = note
        if self.note.output_format != "jsonl":
            raise ConfigError(
                f"shard {name!r} is a {self.note.output_format} matrix, and only JSONL outputs are merged; the place of each of its rows "
                f"in the whole input is `index` in {name + IDS_SUFFIX!r}"
            )
        if not path.is_file():
            raise ConfigError(_unfinished(name, path))
        self._source = _Hashed(name)

    def rows(self) -> Iterator[bytes]:
        """Each row without its newline. Raises ConfigError at the end if the file is not what its note says."""
        rest: list[bytes] = []  # the pieces of a row that has not ended yet
        count = 0
        source = Decompressed(self._source, self.name)
        try:
            while data := source.read(_CHUNK):
                *ended, piece = data.split(b"\n")
                for row in ended:
                    yield b"".join([*rest, row])
                    rest.clear()
                count += len(ended)
                rest.append(piece)
        except InferError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"shard {self.name!r} is damaged: {error}") from None
        if any(rest) or count != self.note.records or self._source.sha256.hexdigest() != self.note.sha256:
            raise ConfigError(
                f"shard {self.name!r} is not the file that its note describes: it has {count:,} rows, there were "
                f"{self.note.records:,}" + ("" if count != self.note.records else ", and its sha256 is another")
            )

    @property
    def status(self) -> os.stat_result:
        """Of its file."""
        return self._source.status


class _Hashed(InputFile):
    """A file that is hashed as it is read."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = super().read(size)
        self.sha256.update(data)
        return data


def open_shards(names: Sequence[str]) -> list[ShardFile]:
    """All shards of one job, the first one first. Raises ConfigError naming one that is missing, doubled, foreign or unfinished."""
    shards = [ShardFile(name) for name in names]
    if not shards:
        raise ConfigError("there is no shard to merge")
    first = shards[0]
    place: dict[int, ShardFile] = {}
    for shard in shards:
        if difference := _foreign(shard.note, first.note):
            raise ConfigError(f"shard {shard.name!r} does not belong with {first.name!r}: {difference}")
        if (other := place.setdefault(shard.note.shard.index, shard)) is not shard:
            raise ConfigError(f"{shard.name!r} and {other.name!r} are both shard {shard.note.shard}; give one of them")
    count = first.note.shard.count
    if missing := [f"{i}/{count}" for i in range(count) if i not in place]:
        raise ConfigError(f"{'shards' if len(missing) > 1 else 'shard'} {', '.join(missing)} not given: every part is needed")
    ordered = [place[i] for i in range(count)]
    for shard, expected in zip(ordered, _expected(ordered), strict=True):
        if shard.note.records != expected:
            raise ConfigError(
                f"shard {shard.name!r} says it has {shard.note.records:,} of {first.note.total_seen:,} records; "
                f"as part {shard.note.shard} it should have {expected:,}"
            )
    return ordered


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
        return Merged(sum(shard.note.records for shard in shards), sum(shard.note.errors for shard in shards))
    try:
        output.begin({"merge": _merged(shards)})
        return _write(output, shards)
    except BaseException:
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
        output.finish(_note(shards, output.sha256.hexdigest(), output.sink.compression))
    else:
        output.finish()
    return Merged(records, errors)


def _is_merged(shards: Sequence[ShardFile], output: JobOutput) -> bool:
    """True if the output is there already, whole and made of these very shards."""
    note = find_note(output.target)
    if note is None or note.merged != _merged(shards):
        return False
    file = _Hashed(str(output.target))
    try:
        while file.read(_CHUNK):
            pass
    finally:
        file.close()
    return file.sha256.hexdigest() == note.sha256


def _merged(shards: Sequence[ShardFile]) -> list[str]:
    return [shard.note.sha256 for shard in shards]


def _note(shards: Sequence[ShardFile], sha256: str, compression: str) -> JobNote:
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
            {**identity.file, "compression": compression},
            {**identity.frames, "errors file": False},
        ),
        records=records,
        total_seen=first.total_seen,
        input_chain=first.input_chain,
        sha256=sha256,
        tally=tally.to_entry(),
        time=first.time,
        attempts=max(shard.note.attempts for shard in shards),
        run_s=round(sum(shard.note.run_s for shard in shards), 3),
        limit=first.limit,
        merged=_merged(shards),
        digests=bytes(digests),
    )


def _rows(shards: Sequence[ShardFile]) -> Iterator[tuple[bytes, bool]]:
    """All rows in order, and whether each is an error. Raises ConfigError, at the end at the latest, if a shard is not whole."""
    rows = [shard.rows() for shard in shards]
    failed = [0] * len(shards)
    for index in range(_start(shards), shards[0].note.total_seen):
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


def _start(shards: Sequence[ShardFile]) -> int:
    """Index of the first selected record: under --offset the ones before it were seen, and are in no shard."""
    return min(shards[0].note.offset, shards[0].note.total_seen)


def _expected(shards: Sequence[ShardFile]) -> list[int]:
    """Rows that each shard should have, given how many there are in all."""
    start, n = _start(shards), len(shards)
    return [len(range(start + (i - start) % n, shards[0].note.total_seen, n)) for i in range(n)]


def _foreign(a: JobNote, b: JobNote) -> str:
    """The difference between two shards that must be of one job; empty if there is none."""
    if a.shard.count != b.shard.count:
        return f"one is of {a.shard.count} parts, the other of {b.shard.count}"
    if differences := b.identity.differences(a.identity, shards=True):
        advice = "; with the same SOURCE_DATE_EPOCH all shards tell the same time" if "strftime_now" in differences[0] else ""
        return f"they are of different jobs: {'; '.join(differences[:3])}{advice}"
    if a.total_seen != b.total_seen:
        return (
            f"one is of the first {a.total_seen:,} records of the input, the other of {b.total_seen:,}; run the command of the one "
            "that has seen less again with --resume"
        )
    return "" if a.input_chain == b.input_chain else "their inputs differ"


def _unfinished(name: str, path: Path) -> str:
    if path.with_name(path.name + PARTIAL_SUFFIX).exists():
        return f"shard {name!r} is not finished; run its command again with --resume"
    if path.exists():
        return f"{name!r} has no {path.name + SHARD_SUFFIX!r} beside it: it is not the finished output of a run with --shard"
    return f"shard {name!r} does not exist"
