"""The parts of an output file: how rows lie in OUT.partial, and what becomes of them at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ...row import Row
from ..compression import encoder
from ..files import Files


@dataclass(frozen=True)
class Stored:
    """All rows of a job as they lie on disk: `fd` has `num_bytes` of frames, `ids_fd` a line for each row."""

    files: Files
    fd: int
    ids_fd: int
    num_rows: int
    num_bytes: int


class Sink(Protocol):
    """One kind of output file."""

    name: str
    """Of --output-format."""
    frame_bytes: int
    """Rows are framed together until they have so many bytes, with the one that reaches them; 0: as they come."""
    compression: str
    """Of OUT.partial and OUT."""

    def frame(self, rows: Sequence[Row]) -> bytes:
        """Rows as they lie in OUT.partial."""


class LineSink:
    """Lines of JSON, compressed or not.

    Args:
        compression: none, gzip or zstd.
    """

    name = "jsonl"

    def __init__(self, compression: str = "none") -> None:
        self.compression = compression
        self._encode, self.frame_bytes = encoder(compression)

    def frame(self, rows: Sequence[Row]) -> bytes:
        return self._encode(b"".join([row.data + b"\n" for row in rows]))
