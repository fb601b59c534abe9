"""Finished shards of one job, before they are merged: each is read once, and all must be of the same job and whole.

A shard is believed only if it is what its note says (its sha256), and of the same job over the same input as the others.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import ConfigError, InferError
from ..remote.download import download
from ..remote.store import Store
from ..remote.url import base_name, is_remote, shown_name
from .input.decompress import Decompressed
from .input.remote_file import RemoteFile
from .input.source import InputFile
from .output.job_note import SHARD_SUFFIX, SUFFIXES, JobNote, find_note
from .output.matrix_output import IDS_SUFFIX
from .output.side_file import PARTIAL_SUFFIX
from .output.table_output import ROWS_SUFFIX

#: Bytes of a file that are read at a time.
CHUNK = 1 << 20


class ShardFile:
    """A finished shard: its note, and its rows read once."""

    def __init__(self, name: str) -> None:
        """Raises ConfigError if there is no such finished shard, or none of lines."""
        self.name = shown_name(name)
        if is_remote(name):
            self._open_remote(name)
            return
        path = Path(os.path.realpath(name))
        note = find_note(path)
        if note is None:
            raise ConfigError(_unfinished(name, path))
        self.note = note
        self._refuse_matrix()
        if not path.is_file():
            raise ConfigError(_unfinished(name, path))
        rows, self._sha256 = name, note.sha256
        if note.rows_sha256:  # a table: what it was made of
            rows, self._sha256 = str(path) + ROWS_SUFFIX, note.rows_sha256
            if not Path(rows).is_file():
                raise ConfigError(f"shard {name!r} is there, but {rows!r}, the rows that it was made of, is not; put it back")
        self._source: HashedFile | HashedRemoteFile = HashedFile(rows)

    def _refuse_matrix(self) -> None:
        if self.note.output_format != "jsonl" and not self.note.rows_sha256:
            raise ConfigError(
                f"shard {self.name!r} is a {self.note.output_format} matrix, and only lines and tables are merged; the place of each of "
                f"its rows in the whole input is `index` in {self.name + IDS_SUFFIX!r}"
            )

    def _open_remote(self, url: str) -> None:
        """One that lies elsewhere, with its note beside it. Raises ConfigError, InferError."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / base_name(url)
            for suffix in SUFFIXES:
                store = Store(url + suffix, "shard")
                if (found := store.find()) is not None:
                    download(store, path.with_name(path.name + suffix), found)
            note = find_note(path)
        if note is None:
            if Store(url, "shard").find() is None:
                raise ConfigError(f"shard {self.name!r} does not exist, or is not finished: run its command again with --resume")
            raise ConfigError(f"{self.name!r} has no {self.name + SHARD_SUFFIX!r} beside it: it is not the output of a run with --shard")
        self.note = note
        self._refuse_matrix()
        self._sha256 = note.rows_sha256 or note.sha256
        self._source = HashedRemoteFile(url + (ROWS_SUFFIX if note.rows_sha256 else ""))

    def rows(self) -> Iterator[bytes]:
        """Each row without its newline. Raises ConfigError at the end if the file is not what its note says."""
        rest: list[bytes] = []  # the pieces of a row that has not ended yet
        count = 0
        source = Decompressed(self._source, self.name)
        try:
            while data := source.read(CHUNK):
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
        if any(rest) or count != self.note.records or self._source.sha256.hexdigest() != self._sha256:
            raise ConfigError(
                f"shard {self.name!r} is not the file that its note describes: it has {count:,} rows, there were "
                f"{self.note.records:,}" + ("" if count != self.note.records else ", and its sha256 is another")
            )

    @property
    def status(self) -> os.stat_result | None:
        """Of its file; None for one that lies elsewhere."""
        return self._source.status


class HashedFile(InputFile):
    """A file that is hashed as it is read."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = super().read(size)
        self.sha256.update(data)
        return data


class HashedRemoteFile(RemoteFile):
    """One that lies elsewhere."""

    def __init__(self, url: str) -> None:
        super().__init__(url, what="shard")
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


def first_index(shards: Sequence[ShardFile]) -> int:
    """Index of the first selected record: under --offset the ones before it were seen, and are in no shard."""
    return min(shards[0].note.offset, shards[0].note.total_seen)


def _expected(shards: Sequence[ShardFile]) -> list[int]:
    """Rows that each shard should have, given how many there are in all."""
    start, n = first_index(shards), len(shards)
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
