"""One .gguf file: its metadata, and where each tensor's bytes lie.

The gguf package has a reader too, but it makes a numpy object of every string and number (3.1 s for a vocabulary of
49,152; this takes 0.1 s), runs past the end of a cut file without noticing, and can loop for ever on a damaged count.
Block sizes and dequantization are the package's.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import ModelError

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
#: Value types of the format, by number: struct formats of the plain ones.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_DEPTH = 4
MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class Block:
    """One tensor as stored: `quant` is ggml's name of its type ("Q4_1", "F32"), `shape` has rows first; bytes [start, end)."""

    name: str
    shape: tuple[int, ...]
    quant: str
    start: int
    end: int


@dataclass(frozen=True)
class GgufFile:
    """A parsed header."""

    path: Path
    metadata: dict[str, Any]
    blocks: dict[str, Block]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Parses the header. Raises ModelError naming the file and, where it is cut short, the bytes it lacks."""
        try:
            with path.open("rb") as f:
                size = os.fstat(f.fileno()).st_size
                if size < 24:
                    raise ModelError(f"{path} is cut short: expected at least 24 bytes, it has {size}; fetch the model again")
                with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as view:
                    return cls(path, *_parse(_Cursor(view, path)))
        except OSError as e:
            raise ModelError(f"cannot read {path}: {e.strerror}") from e


class _Cursor:
    """Reads values one after another and knows where the file ends."""

    def __init__(self, view: mmap.mmap, path: Path) -> None:
        self.view = view
        self.path = path
        self.size = len(view)
        self.position = 0

    def take(self, size: int) -> int:
        """Moves over `size` bytes and returns where they start."""
        start = self.position
        self.position += size
        if self.position > self.size:
            raise ModelError(
                f"{self.path} is cut short: expected at least {self.position} bytes, it has {self.size}; fetch the model again"
            )
        return start

    def number(self, code: str) -> Any:
        return struct.unpack_from("<" + code, self.view, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        length = self.number("Q")
        start = self.take(length)
        try:
            return self.view[start : start + length].decode()
        except UnicodeDecodeError as e:
            raise self.damaged(f"the text at byte {start} is not UTF-8") from e

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY or depth > MAX_DEPTH:
            raise self.damaged(f"unknown value type {kind} at byte {self.position}")
        kind, count = self.number("I"), self.number("Q")
        if kind in SCALARS:
            code = SCALARS[kind]
            start = self.take(count * struct.calcsize("<" + code))
            return list(struct.unpack_from(f"<{count}{code}", self.view, start))
        if count * 8 > self.size - self.position:  # a string or an array takes 8 bytes at least
            self.take(count * 8)
        return [self.value(kind, depth + 1) for _ in range(count)]

    def damaged(self, what: str) -> ModelError:
        return ModelError(f"{self.path} is damaged: {what}; fetch the model again")


def _parse(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, Block]]:
    path = cursor.path
    if cursor.view[cursor.take(4) : 4] != MAGIC:
        raise ModelError(f"{path} is not a GGUF file")
    version = cursor.number("I")
    if version not in {2, 3}:
        why = "is big-endian" if version & 0xFFFF == 0 else f"has GGUF version {version}"
        raise ModelError(f"{path} {why}; versions 2 and 3, little-endian, are read: convert it again with a current llama.cpp")
    num_blocks, num_values = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(num_values):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.number("I"))
    headers = [_header(cursor) for _ in range(num_blocks)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise cursor.damaged(f"general.alignment is {alignment!r}, not a power of two")
    base = -(-cursor.position // alignment) * alignment
    blocks = sorted((_block(cursor, base, header) for header in headers), key=lambda b: b.start)
    for left, right in pairwise(blocks):
        if left.end > right.start:
            raise cursor.damaged(f"tensors {left.name!r} and {right.name!r} overlap")
    if blocks and blocks[-1].end > cursor.size:
        raise ModelError(f"{path} is cut short: expected {blocks[-1].end} bytes, it has {cursor.size}; fetch the model again")
    if len({b.name for b in blocks}) < len(blocks):
        raise cursor.damaged("two tensors have the same name")
    return metadata, {b.name: b for b in blocks}


class _Header(NamedTuple):
    """One tensor's entry: `sizes` has ggml's order, the fastest-running dimension first; `offset` counts from the first tensor's byte."""

    name: str
    sizes: list[int]
    kind: int
    offset: int


def _header(cursor: _Cursor) -> _Header:
    name = cursor.string()
    num_dimensions = cursor.number("I")
    if not 1 <= num_dimensions <= MAX_DIMENSIONS:
        raise cursor.damaged(f"tensor {name!r} has {num_dimensions} dimensions")
    sizes = [cursor.number("Q") for _ in range(num_dimensions)]
    return _Header(name, sizes, cursor.number("I"), cursor.number("Q"))


def _block(cursor: _Cursor, base: int, header: _Header) -> Block:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    where = f"tensor {header.name!r}"
    try:
        quant = GGMLQuantizationType(header.kind)
        block_size, block_bytes = GGML_QUANT_SIZES[quant]
    except (ValueError, KeyError) as e:
        raise ModelError(f"{cursor.path}: {where} has ggml type {header.kind}, which the installed gguf package does not know") from e
    if header.sizes[0] % block_size or not all(header.sizes):
        raise cursor.damaged(f"{where} has sizes {header.sizes}, which blocks of {block_size} ({quant.name}) do not fill")
    start = base + header.offset
    end = start + math.prod(header.sizes) // block_size * block_bytes
    return Block(header.name, tuple(reversed(header.sizes)), quant.name, start, end)
