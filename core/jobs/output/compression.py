"""Frames of output bytes. A frame ends with the first row that fills it, never at a commit: the bytes of a compressed
file must not depend on when commits fell."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

from ...errors import ConfigError

#: Uncompressed bytes after which a frame ends, with the row that reaches them.
FRAME_BYTES = 1 << 20
GZIP_LEVEL = 6
ZSTD_LEVEL = 3

SUFFIXES = {".gz": "gzip", ".zst": "zstd"}
KINDS = ("none", "gzip", "zstd")


def compression_of(name: str, asked: str = "auto") -> str:
    """none, gzip or zstd: what was asked for, or what the file's name says."""
    if asked != "auto":
        if asked not in KINDS:
            raise ConfigError(f"unknown compression {asked!r}; known: auto, {', '.join(KINDS)}")
        return asked
    return SUFFIXES.get(Path(name).suffix.lower(), "none")


def encoder(kind: str) -> tuple[Callable[[bytes], bytes], int]:
    """(bytes of whole lines -> one frame, size of a frame); 0: every line is its own frame."""
    if kind == "gzip":
        # No name and no time in the header: the same lines are the same bytes.
        return lambda data: gzip.compress(data, GZIP_LEVEL, mtime=0), FRAME_BYTES
    if kind == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress, FRAME_BYTES
    return bytes, 0
