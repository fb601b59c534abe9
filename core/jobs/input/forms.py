"""Forms of input beside JSON lines: which one a file has, by what was said, its name, or its first bytes."""

from __future__ import annotations

import csv
import json
from typing import Any

from ...errors import ConfigError

#: What --input-format may say.
FORMATS = ("auto", "jsonl", "csv", "tsv", "parquet", "json")
_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet", ".pq": "parquet"}
#: What no form here begins with, and what to do about it.
_FOREIGN = {
    b"BZh": "is compressed with bzip2, which is not read: bunzip2 -k it",
    b"\xfd7zXZ": "is compressed with xz, which is not read: unxz -k it",
    b"PK\x03\x04": "is a zip archive (or a spreadsheet), which is not read: unpack it, or export it as CSV",
    b"\xff\xfe": "is UTF-16: iconv -f UTF-16 -t UTF-8 it",
    b"\xfe\xff": "is UTF-16: iconv -f UTF-16 -t UTF-8 it",
}
_WHAT = {"csv": "CSV", "tsv": "TSV", "parquet": "Parquet", "json": "JSON that is not one record a line"}
#: Lines that are looked at.
_LINES = 5


def form_of(name: str, head: bytes, *, asked: str = "auto") -> str:
    """The form of an input: one of FORMATS but "auto".

    Args:
        name: of the file; its ending counts where nothing was said.
        head: its first bytes, as far as they can be looked at, decompressed.
        asked: what --input-format said.

    Raises ConfigError for a file of which it can be seen that it is not what it is taken for, with what to do.
    """
    bare = name.lower().removesuffix(".gz").removesuffix(".zst")
    form = asked if asked != "auto" else next((form for suffix, form in _SUFFIXES.items() if bare.endswith(suffix)), "jsonl")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise ConfigError(f"input {name!r} {what}")
    if form in ("csv", "tsv", "json") or not head:
        return form
    seen = _seen(head)
    if asked == "auto" and bare.endswith(".json") and seen == "json":
        return "json"
    if (seen is not None and seen != form) or (form == "parquet" and seen != form):
        what = _WHAT[seen] if seen is not None else "not Parquet"
        raise ConfigError(f"input {name!r} is {what}, not JSON lines; give --input-format {seen or 'jsonl'}")
    return form


def _seen(head: bytes) -> str | None:
    """The form that the first bytes of a file show, if it is not JSON lines; None if they do not tell."""
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return None
    others = [line.lstrip() for line in lines[1:]]
    if text[0] == "[":
        value = _value(lines[0])
        whole = isinstance(value, list) and value and all(isinstance(item, dict) for item in value) and not others
        cut = value is None and (
            all(after.startswith("]") for line, after in zip(others, [*others[1:], ""], strict=True) if isinstance(_value(line), dict))
            if others
            else text[1:].lstrip().startswith("{")  # one line, cut off by its file or by how much is looked at
        )
        return "json" if whole or cut else None
    if text[0] == "{":
        begins = others and others[0].startswith(('"', "}")) and _value(lines[0]) is None
        return "json" if begins else None
    return _table(lines[: _LINES if len(lines) > 2 else 2], complete=len(lines) > 1)


def _table(lines: list[str], *, complete: bool) -> str | None:
    """ "csv" or "tsv" for lines that all have as many cells, of which the first are names."""
    if not complete or any(line.lstrip().startswith("{") for line in lines):
        return None
    for form, delimiter in (("tsv", "\t"), ("csv", ",")):
        try:
            rows = list(csv.reader(lines[:-1] if len(lines) > 2 else lines, delimiter=delimiter))
        except csv.Error:
            continue
        names = rows[0]
        if len(names) > 1 and len({len(row) for row in rows}) == 1 and all(name.strip() and len(name) < 64 for name in names):
            return form
    return None


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
