"""`OUT.job.json`, for a shard `OUT.shard.json`: the description of a finished output, kept beside it.

--resume, --retry-errors and --redo hold it against what they are asked for, `infer merge` the notes of shards against each other.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from ...errors import ConfigError, OutputError
from ..identity import Identity
from ..input.lines import SHORT_DIGEST_BYTES
from ..input.selection import Shard
from ..tally import Tally
from .files import Files, put_in_place, refuse_if_foreign

JOB_SUFFIX = ".job.json"
SHARD_SUFFIX = ".shard.json"
SUFFIXES = (JOB_SUFFIX, SHARD_SUFFIX)
#: What a note is called while it is written.
TEMPORARY = ".tmp"
#: Bumped whenever a note of before cannot be read.
FORMAT = 2

_ADVICE = "put it back as it was, or make its output anew with --overwrite"
_BEGINNING = b'{\n  "format": '
_NUMBERS = ("records", "total_seen", "attempts")
_TEXTS = ("input_chain", "sha256", "time")


@dataclass(frozen=True)
class JobNote:
    """Hashes are in hex.

    Args:
        identity: the job's; its shard is 0/1 where there are no others.
        records: rows.
        total_seen: records of the whole input that were seen, selected or not.
        input_chain: hash over those.
        sha256: of OUT.
        tally: of the rows.
        time: the job's, ISO 8601: what its templates tell.
        attempts, run_s: how often it was started, and for how many seconds it ran.
        limit: how many records were selected at most; None: no such limit.
        digests: the first SHORT_DIGEST_BYTES of the hash of each selected record's line.
        merged: sha256 of each shard, if it was put together from some.
        rows_sha256: of the file of rows beside OUT, if OUT is a table of them.
    """

    identity: Identity
    records: int
    total_seen: int
    input_chain: str
    sha256: str
    tally: Mapping[str, Any]
    time: str
    attempts: int = 1
    run_s: float = 0.0
    limit: int | None = None
    merged: list[str] = field(default_factory=list)
    digests: bytes = b""
    rows_sha256: str = ""

    @property
    def shard(self) -> Shard:
        """The part of the job that it is."""
        return Shard.parse(str(self.identity.place["shard"]))

    @property
    def offset(self) -> int:
        """The index of the first record that was selected from all shards."""
        return int(self.identity.place["offset"])

    @property
    def errors(self) -> int:
        """Failed records among the rows."""
        return Tally.from_entry(self.tally).num_failed

    @property
    def output_format(self) -> str:
        """Of OUT."""
        return str(self.identity.file["output format"])

    def digest_of(self, ordinal: int) -> bytes:
        """Of the record of row `ordinal`."""
        return self.digests[ordinal * SHORT_DIGEST_BYTES : (ordinal + 1) * SHORT_DIGEST_BYTES]

    def to_bytes(self) -> bytes:
        """The file's content."""
        told = {name: getattr(self, name) for name in (*_NUMBERS, *_TEXTS, "run_s", "limit", "merged")}
        value = {"format": FORMAT, **told, "errors": self.errors, "tally": dict(self.tally), **self.identity.to_json()}
        if self.rows_sha256:
            value["rows_sha256"] = self.rows_sha256
        value["digests"] = base64.b64encode(self.digests).decode()
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def load(cls, path: Path) -> JobNote:
        """Raises ConfigError for what is no such file; FileNotFoundError if it is not there."""
        try:
            value = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            raise
        except OSError as error:
            raise OutputError(f"{str(path)!r} cannot be read: {error.strerror}") from None
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{str(path)!r} cannot be read: {error}; {_ADVICE}") from None
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            found = value.get("format") if isinstance(value, dict) else None
            raise ConfigError(f"{str(path)!r} is not a note of an output in format {FORMAT} (format: {found!r}); {_ADVICE}")
        for names, kind in ((_NUMBERS, int), (_TEXTS, str)):
            for name in names:
                if type(value.get(name)) is not kind or (kind is int and value[name] < 0):
                    raise _damaged(path, name, value.get(name))
        try:
            note = cls(
                Identity.from_json(value),
                **{name: value[name] for name in (*_NUMBERS, *_TEXTS)},
                tally=Tally.from_entry(value["tally"]).to_entry(),
                run_s=float(value["run_s"]),
                limit=value["limit"],
                merged=list(value["merged"]),
                digests=base64.b64decode(value["digests"], validate=True),
                rows_sha256=str(value.get("rows_sha256", "")),
            )
            _ = note.shard, note.offset, note.output_format, datetime.fromisoformat(note.time)
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, ConfigError) as error:
            raise ConfigError(f"{str(path)!r} is damaged: {error!r}; {_ADVICE}") from None
        if len(note.digests) != note.records * SHORT_DIGEST_BYTES:
            raise _damaged(path, "digests", f"{len(note.digests)} bytes")
        if Tally.from_entry(note.tally).num_records != note.records or value.get("errors") != note.errors:
            raise _damaged(path, "tally", value["tally"])
        return note

    def write(self, output: Path, files: Files | None = None) -> None:
        """Puts it beside the output, which it is on disk before; one of the other kind goes. Raises OSError, ConfigError."""
        files = files or Files()
        path = note_path(output, is_shard=self.shard.count > 1)
        temporary = path.with_name(path.name + TEMPORARY)
        put_in_place(files, files.open(temporary, 0o666), temporary, path, self.to_bytes())
        files.remove(note_path(output, is_shard=self.shard.count == 1))


def note_path(output: Path, *, is_shard: bool) -> Path:
    """The path of an output's note: beside the file itself, whatever links lead to it."""
    target = Path(os.path.realpath(output))
    return target.with_name(target.name + (SHARD_SUFFIX if is_shard else JOB_SUFFIX))


def note_paths(output: Path) -> list[Path]:
    """Both paths that an output's note may have."""
    return [note_path(output, is_shard=is_shard) for is_shard in (False, True)]


def find_note(output: Path) -> JobNote | None:
    """The note beside an output; None if there is none. Raises ConfigError for one that makes no sense."""
    for path in note_paths(output):
        with contextlib.suppress(FileNotFoundError):
            return JobNote.load(path)
    return None


def refuse_other_notes(output: Path, name: str) -> None:
    """Raises ConfigError for a file of another kind where a note will be put. A note may be replaced, whatever its format."""
    for path in note_paths(output):
        try:
            value = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, orjson.JSONDecodeError):
            value = None
        if not (isinstance(value, dict) and isinstance(value.get("format"), int) and "sha256" in value):
            raise ConfigError(f"{str(path)!r} belongs to output {name!r} and is another file; move it away, or use --overwrite")
    for path in note_paths(output):
        temporary = path.with_name(path.name + TEMPORARY)
        refuse_if_foreign(temporary)
        try:
            left = temporary.read_bytes()
        except FileNotFoundError:
            continue
        except OSError:
            left = b"?"
        # Of a run that was killed while it wrote one: its beginning, or zeros after a power cut.
        if not _BEGINNING.startswith(left[: len(_BEGINNING)].rstrip(b"\0")):
            raise ConfigError(f"{str(temporary)!r} is needed for output {name!r} and is another file; move it away")


def _damaged(path: Path, name: str, value: Any) -> ConfigError:
    return ConfigError(f"{str(path)!r} is damaged: {name} is {str(value)[:60]!r}; {_ADVICE}")
