"""Formats of OUT: which one an output has, by what was asked for or by its name."""

from __future__ import annotations

from pathlib import Path

from ...errors import ConfigError, nearest

#: Formats of answers as a table, which is made of all rows at the end.
TABLES = ("csv", "tsv", "parquet")
#: Formats of vectors as one matrix, which is made of all rows at the end.
MATRICES = ("npy", "safetensors", "parquet")
#: All formats of an output; "auto" is to be asked for beside them.
FORMATS = ("jsonl", "csv", "tsv", "parquet", "npy", "safetensors")

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".npy": "npy",
    ".safetensors": "safetensors",
}
_COMPRESSED = (".gz", ".zst")


def format_of(name: str, asked: str = "auto", *, vectors: bool) -> str:
    """One of FORMATS: what was asked for, or what the file's name says.

    Args:
        vectors: answers are vectors, of which matrices are made.

    Raises ConfigError for a matrix of what is no vector, and for what is no format.
    """
    if asked not in ("auto", *FORMATS):
        raise ConfigError(f"unknown output format {asked!r}{nearest(asked, FORMATS)} (known: auto, {', '.join(FORMATS)})")
    form = asked if asked != "auto" else _by_name(name)
    if not vectors and form in MATRICES and form not in TABLES:
        what = f"--output-format {form}" if asked != "auto" else f"output {name!r} ends as files of vectors do, and {form}"
        raise ConfigError(f"{what} holds vectors, which infer embed makes; choose jsonl, csv, tsv or parquet with --output-format")
    return form


def is_table(form: str, *, vectors: bool) -> bool:
    """True if OUT is a table with a row a record."""
    return form in TABLES and not is_matrix(form, vectors=vectors)


def is_matrix(form: str, *, vectors: bool) -> bool:
    """True if OUT is one matrix of vectors."""
    return form in MATRICES and (vectors or form not in TABLES)


def _by_name(name: str) -> str:
    path = Path(name)
    if path.suffix.lower() in _COMPRESSED:
        path = path.with_suffix("")
    return _SUFFIXES.get(path.suffix.lower(), "jsonl")
