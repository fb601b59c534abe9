"""The shards of one job back into one output, row by row, in memory that does not grow with them.

    record k of the whole input is in shard k mod n:    0 1 2 0 1 2 0 1 …    from the first selected record on

A shard is believed only if it is whole (its sha256) and of the same job over the same input as the others. Every row says
which record it answers, and is checked to be the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..errors import ConfigError, InferError
from .compression import FRAME_BYTES
from .decompress import Decompressed
from .output import IDS_SUFFIX, JobOutput
from .row import Row
from .shard_note import NOTE_SUFFIX, ShardNote, note_path
from .source import InputFile
from .straight import StraightOutput

_CHUNK = 1 << 20
#: The place of a record in the id of an OpenAI Batch row: infer-<fingerprint>-<index>.
_BATCH_ID = re.compile(r"infer-[0-9a-f]+-([0-9]+)")


@dataclass(frozen=True)
class Merged:
    """What was put together: rows, and how many of them are errors."""

    records: int
    errors: int


class ShardFile:
    """A finished shard: its note, and its rows read once."""

    def __init__(self, name: str) -> None:
        """Raises ConfigError if there is no such finished shard, or none of lines."""
        self.name = name
        path = Path(name)
        try:
            self.note = ShardNote.load(note_path(path))
        except FileNotFoundError:
            raise ConfigError(_unfinished(name, path)) from None
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
                f"shard {self.name!r} is not the file that its {NOTE_SUFFIX} describes: it has {count:,} rows, there were "
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
            raise ConfigError(f"shard {shard.name!r} does not belong together with {first.name!r}: {difference}")
        if (other := place.setdefault(shard.note.shard, shard)) is not shard:
            raise ConfigError(f"{shard.name!r} and {other.name!r} are both shard {_part(shard.note)}; give one of them")
    if missing := [f"{i}/{first.note.of}" for i in range(first.note.of) if i not in place]:
        raise ConfigError(f"{'shards' if len(missing) > 1 else 'shard'} {', '.join(missing)} not given: every part is needed")
    ordered = [place[i] for i in range(first.note.of)]
    for shard, expected in zip(ordered, _expected(ordered), strict=True):
        if shard.note.records != expected:
            raise ConfigError(
                f"shard {shard.name!r} says it has {shard.note.records:,} of {first.note.total_seen:,} records; "
                f"as part {_part(shard.note)} it should have {expected:,}"
            )
    return ordered


def merge(names: Sequence[str], output: JobOutput | StraightOutput, shards: Sequence[ShardFile]) -> Merged:
    """Writes the rows of all shards into `output`, in order, and publishes it.

    Raises ConfigError for a shard that is not what its note says; then nothing is published, and nothing of it stays. Where
    rows cannot be taken back (a pipe), everything is read once before the first is written.
    """
    _allow_open_files(len(shards))
    if isinstance(output, StraightOutput):
        for _ in _rows(shards):
            pass
        return _write(output, open_shards(names))
    try:
        output.begin({"merge": [shard.note.sha256 for shard in shards]})
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
    output.finish()
    return Merged(records, errors)


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
            raise ConfigError(f"shard {shard.name!r} has {errors:,} error rows; its {NOTE_SUFFIX} says {shard.note.errors:,}")


def _allow_open_files(count: int) -> None:
    """All shards are open at once, and systems allow a process fewer files than it may ask for."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, count + 64), hard), hard))


def _check_row(row: bytes, index: int, name: str) -> bool:
    """Whether it is an error row. Raises ConfigError if it is not the row of record `index`."""
    try:
        fields: dict[str, Any] = orjson.loads(row)
        place: int = fields["index"] if "index" in fields else int(_BATCH_ID.fullmatch(fields["id"])[1])  # type: ignore[index]
        failed: bool = fields["error"] is not None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise ConfigError(f"shard {name!r}: the row where record {index:,} should be is no answer") from None
    if place != index:
        raise ConfigError(f"shard {name!r}: record {place} is where record {index:,} should be")
    return failed


def _start(shards: Sequence[ShardFile]) -> int:
    """Index of the first selected record: under --offset the ones before it were seen, and are in no shard."""
    return shards[0].note.total_seen - sum(shard.note.records for shard in shards)


def _expected(shards: Sequence[ShardFile]) -> list[int]:
    """Rows that each shard should have, given how many there are in all."""
    start, n = max(_start(shards), 0), len(shards)
    return [len(range(start + (i - start) % n, shards[0].note.total_seen, n)) for i in range(n)]


def _foreign(a: ShardNote, b: ShardNote) -> str:
    """How two shards differ that must be of one job; empty if they do not."""
    if a.of != b.of:
        return f"one is of {a.of} parts, the other of {b.of}"
    if not 0 <= a.shard < a.of:
        return f"there is no part {_part(a)}"
    if a.fingerprint != b.fingerprint:
        return "they are of different jobs (model, settings or versions)"
    if (a.input_chain, a.total_seen) != (b.input_chain, b.total_seen):
        return "their inputs differ"
    return ""


def _part(note: ShardNote) -> str:
    return f"{note.shard}/{note.of}"


def _unfinished(name: str, path: Path) -> str:
    if path.with_name(path.name + ".partial").exists():
        return f"shard {name!r} is not finished; run its command again with --resume"
    if path.exists():
        return f"{name!r} has no {path.name + NOTE_SUFFIX!r} beside it: it is not the finished output of a run with --shard"
    return f"shard {name!r} does not exist"
