"""`OUT.shard.json`: what a finished shard says of itself, and what `infer merge` checks before it puts shards together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from ..errors import ConfigError

NOTE_SUFFIX = ".shard.json"
#: Bumped whenever a note of before cannot be read.
FORMAT = 1

_TYPES = {"int": int, "str": str}


@dataclass(frozen=True)
class ShardNote:
    """Hashes are in hex.

    Args:
        shard, of: part `shard` (from 0) of `of`.
        records: rows in this shard.
        total_seen: records of the whole input that were seen, in this shard or not.
        fingerprint: of the job; equal for all shards of one.
        input_chain: hash over the whole input.
        sha256: of the shard's file.
        errors: failed records among its rows.
        output_format: of the shard's file.
    """

    shard: int
    of: int
    records: int
    total_seen: int
    fingerprint: str
    input_chain: str
    sha256: str
    errors: int
    output_format: str = "jsonl"

    def to_bytes(self) -> bytes:
        """The file's content."""
        return orjson.dumps({"format": FORMAT, **asdict(self)}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def load(cls, path: Path) -> ShardNote:
        """Raises ConfigError for what is no such file; FileNotFoundError if it is not there."""
        try:
            with path.open("rb") as file:
                value = orjson.loads(file.read(1 << 20))
        except FileNotFoundError:
            raise
        except (OSError, orjson.JSONDecodeError) as error:
            raise ConfigError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            found = value.get("format") if isinstance(value, dict) else None
            raise ConfigError(f"{str(path)!r} is no note of a shard in format {FORMAT} (format: {found!r})")
        value.setdefault("output_format", "jsonl")  # notes did not always say
        return cls(**{f.name: _field(path, value, f.name, _TYPES[str(f.type)]) for f in fields(cls)})


def note_path(output: Path) -> Path:
    """Where the note of a shard's file is."""
    return output.with_name(output.name + NOTE_SUFFIX)


def _field(path: Path, value: dict[str, Any], name: str, kind: type) -> Any:
    found = value.get(name)
    if type(found) is not kind or (isinstance(found, int) and found < 0):
        raise ConfigError(f"{str(path)!r} is damaged: {name} is {found!r}")
    return found
