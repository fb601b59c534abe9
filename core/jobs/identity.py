"""The one definition of "the same job", for --resume, --retry-errors, --redo, shards, merge and a finished OUT.

    same rows      the fingerprints are equal (fingerprint.py): model, settings, options, versions, what templates tell of the time
    same place     the first selected record is the same one, and the shard: `offset` and `shard` are equal
    same records   each record whose row is kept is, byte for byte, the line it was, at its place in the input; more may follow
    same file      what OUT is made of is equal: its format and compression; of an unfinished one also whatever a frame depends on

`limit` is in none of it: it only says how many records are selected, so it may be raised. Nor is what is to be answered anew.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..errors import ConfigError
from .fingerprint import VERIFIED
from .input.selection import Selection
from .stats import library_version

#: What is said of an output in a journal and in a note, by part.
_PARTS = ("fingerprint", "place", "file", "frames")

_ADVICE = "start again with --overwrite, choose another output, or mix both with --resume-force"


@dataclass(frozen=True)
class Identity:
    """Everything that two attempts at one job have in common, by name.

    Args:
        fingerprint: of the rows.
        place: of the first row.
        file: of OUT.
        frames: of OUT.partial too.
    """

    fingerprint: Mapping[str, Any]
    place: Mapping[str, Any]
    file: Mapping[str, Any]
    frames: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        fingerprint: Mapping[str, Any],
        selection: Selection,
        *,
        output_format: str,
        compression: str,
        errors: bool,
        rows: str = "none",
    ) -> Identity:
        """Of a job with these options.

        Args:
            errors: there is a file of failed lines.
            rows: compression of the rows that a table is made of.
        """
        place = {"offset": selection.offset, "shard": str(selection.shard)}
        frames: dict[str, Any] = {"errors file": errors, **({"rows": rows} if rows != "none" else {})}
        if compression == "gzip":
            frames["version of zlib"] = zlib.ZLIB_RUNTIME_VERSION
        elif compression == "zstd":
            frames["version of zstandard"] = library_version("zstandard")
        elif output_format == "parquet":
            frames["version of pyarrow"] = library_version("pyarrow")
        return cls(fingerprint, place, {"output format": output_format, "compression": compression}, frames)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Identity:
        """From `to_json`. Raises ValueError for what is none."""
        parts = {name: value.get(name) for name in _PARTS}
        if wrong := [name for name, part in parts.items() if not isinstance(part, dict)]:
            raise ValueError(f"no {', '.join(wrong)}")
        return cls(**parts)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """For a journal's header or a note."""
        return {name: dict(getattr(self, name)) for name in _PARTS}

    @property
    def digest(self) -> str:
        """One hash of the fingerprint, in hex: it names the job in rows, so all of its shards have the same."""
        return digest(self.fingerprint)

    def differences(self, other: Identity, *, shards: bool = False) -> list[str]:
        """The ways in which `other` is not the same job, a sentence each. `shards`: the two may be parts of one."""
        before, now = ({**one.fingerprint, **one.place, **one.file} for one in (self, other))
        leave = {"shard", "compression", "output format"} if shards else set()
        return _differences(before, now, leave)

    def refuse(self, other: Identity, *, unfinished: bool = False) -> None:
        """Raises ConfigError naming how `other` is not the same job; `unfinished`: it is to go on with the frames of this one."""
        found = self.differences(other) + (_differences(self.frames, other.frames) if unfinished else [])
        if found:
            more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
            raise ConfigError(f"cannot resume, this is not the same job: {'; '.join(found[:5])}{more}; {_ADVICE}")


def digest(fingerprint: Mapping[str, Any]) -> str:
    """One hash of a fingerprint, in hex. --verify is only a closer look: it is not in it."""
    counted = {name: value for name, value in fingerprint.items() if name != VERIFIED}
    return hashlib.blake2b(orjson.dumps(counted, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def changed_input(how: str, instead: str = "") -> ConfigError:
    """The error for records that are not those that were answered. `instead`: what to do first of all."""
    return ConfigError(f"the input changed: {how}; {f'{instead}, or ' if instead else ''}{_ADVICE}")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], leave: set[str] | None = None) -> list[str]:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name) and name not in (leave or ())]
    if VERIFIED in names and not (VERIFIED in before and VERIFIED in now):
        names.remove(VERIFIED)  # one of the two did not look
    return [f"{name} was {_short(before.get(name))}, is {_short(now.get(name))}" for name in names]


def _short(value: Any) -> str:
    text = "not set" if value is None else orjson.dumps(value).decode()
    return text if len(text) <= 60 else text[:57] + "…"
