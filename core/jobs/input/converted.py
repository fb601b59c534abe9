"""Input of another form as JSON lines: CSV and TSV by their column names, JSON values one by one, rows of a Parquet file."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from ...errors import ConfigError, InferError
from .lines import CHUNK_BYTES
from .source import Source

#: Most characters of one JSON value that is put together.
_LONGEST = 64 << 20
_DECODER = json.JSONDecoder()


class Converted:
    """A Source of JSON lines on one of another form.

    Args:
        source: the bytes as they are, decompressed.
        name: of the input, for messages.
        form: "csv", "tsv", "json" or "parquet".
        path: of a Parquet file, which is not read from one end to the other; or a file to read here and there of.
    """

    def __init__(self, source: Source, name: str, form: str, path: str | BinaryIO) -> None:
        self.name = name
        self._source = source
        self._failure: InferError | None = None
        rows: Callable[[], Iterator[Any]] = {
            "csv": lambda: _table(self._texts(), name, ","),
            "tsv": lambda: _table(self._texts(), name, "\t"),
            "json": lambda: _values(self._texts(), name),
            "parquet": lambda: _parquet(path, name),
        }[form]
        self._rows = rows()

    def read(self, size: int) -> bytes:
        if self._failure is not None:
            raise self._failure
        found, count = [], 0
        try:
            for row in self._rows:
                found.append(line_of(row))
                count += len(found[-1])
                if count >= size:
                    break
        except InferError as error:
            self._failure = error
            if not found:
                raise
        return b"".join(found)

    def ready(self, seconds: float = 0.0) -> bool:
        """As its source: a row that has begun to come is waited for."""
        return self._failure is not None or self._source.ready(seconds)

    def _texts(self) -> Iterator[str]:
        """Pieces of text. Bytes that are no UTF-8 stay what they are, so that the record they are in fails, and no other."""
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        first = True
        while data := self._source.read(CHUNK_BYTES):
            text = decoder.decode(data)
            yield text.removeprefix("\ufeff") if first else text
            first = False
        yield decoder.decode(b"", final=True)


def line_of(row: Any) -> bytes:
    """A line of JSON. What a cell holds that JSON has no type for becomes text."""
    text = json.dumps(row, ensure_ascii=False, default=_as_json)
    return text.encode("utf-8", "surrogateescape" if isinstance(row, _Texts) else "surrogatepass") + b"\n"


class _Texts(dict[str, str]):
    """A row of CSV."""


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _table(texts: Iterator[str], name: str, delimiter: str) -> Iterator[_Texts]:
    """Rows as the csv module reads them; the first has the names. A cell beyond them is `column_N`; one that lacks is left out."""
    csv.field_size_limit(_LONGEST)
    rows = csv.reader(_lines(texts), delimiter=delimiter)
    try:
        names = next(rows, [])
        if not names or not all(names) or len(set(names)) < len(names):
            raise ConfigError(
                f"input {name!r}: its first line must have the names of the columns, each once; it is {', '.join(names)[:200]!r}"
            )
        for row in rows:
            if row:
                more = [f"column_{number}" for number in range(len(names) + 1, len(row) + 1)]
                yield _Texts(zip([*names, *more], row, strict=False))
    except csv.Error as error:
        raise InferError(f"input {name!r} cannot be read on from line {rows.line_num}: {error}") from None


def _lines(texts: Iterator[str]) -> Iterator[str]:
    """Lines with their ends."""
    rest = ""
    for text in texts:
        *ended, rest = (rest + text).split("\n")
        for line in ended:
            yield line + "\n"
    if rest:
        yield rest


def _values(texts: Iterator[str], name: str) -> Iterator[Any]:
    """JSON values one after the other; of a list on the outside, its items."""
    text, at, listed, more = "", 0, False, True
    while True:
        while at < len(text) and (text[at].isspace() or (listed and text[at] == ",")):
            at += 1
        if at < len(text) and text[at] == ("]" if listed else "["):
            listed, at = not listed, at + 1
            continue
        try:
            value, end = _DECODER.raw_decode(text, at)
            if end == len(text) and more and not text.endswith(("}", "]", '"')):
                raise ValueError  # a number may go on
        except (ValueError, RecursionError):
            piece = next(texts, None) if more and len(text) - at < _LONGEST else None
            if piece is not None:
                text, at = text[at:] + piece, 0
                continue
            more = False
            if at == len(text):
                return
            raise InferError(f"input {name!r}: what begins with {text[at : at + 40]!r} is not JSON, or is cut off") from None
        yield value
        at = end


def _parquet(path: str | BinaryIO, name: str) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("Parquet is read with pyarrow: pip install 'infer-jsonl[parquet]'") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise InferError(f"input {name!r} cannot be read as Parquet: {error}") from None
