"""The header of one .safetensors file, checked against the file's size.

We read it ourselves because the safetensors library opens a damaged file with errors that name neither the file nor
the number of bytes it lacks, and because reading tensors through its memory map keeps every page of the file resident
(measured: a 1.3 GB file costs 1.3 GB on top of the tensors made from it).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import ModelError
from ..spec.hf_values import is_text
from .source import TensorInfo


class Dtype(NamedTuple):
    bits: int
    torch_name: str  # the dtype's name in torch; versions that lack it cannot load such tensors


#: Every dtype the format knows.
DTYPES = {
    "BOOL": Dtype(8, "bool"),
    "U8": Dtype(8, "uint8"),
    "I8": Dtype(8, "int8"),
    "U16": Dtype(16, "uint16"),
    "I16": Dtype(16, "int16"),
    "U32": Dtype(32, "uint32"),
    "I32": Dtype(32, "int32"),
    "U64": Dtype(64, "uint64"),
    "I64": Dtype(64, "int64"),
    "F64": Dtype(64, "float64"),
    "F32": Dtype(32, "float32"),
    "F16": Dtype(16, "float16"),
    "BF16": Dtype(16, "bfloat16"),
    "C64": Dtype(64, "complex64"),
    "F8_E4M3": Dtype(8, "float8_e4m3fn"),
    "F8_E5M2": Dtype(8, "float8_e5m2"),
    "F8_E4M3FNUZ": Dtype(8, "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": Dtype(8, "float8_e5m2fnuz"),
    "F8_E8M0": Dtype(8, "float8_e8m0fnu"),
    "F6_E2M3": Dtype(6, ""),
    "F6_E3M2": Dtype(6, ""),
    "F4": Dtype(4, ""),
}
#: The format's own limit; a larger length means the first 8 bytes are not a length at all.
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Entry:
    """One tensor and where its bytes lie in the file: [start, end)."""

    info: TensorInfo
    start: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """The file's tensors in the order their bytes lie in it. Raises ModelError naming the file and the bytes it lacks."""
    try:
        with path.open("rb") as f:
            return header_of(f, os.fstat(f.fileno()).st_size, path)
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}") from e


def header_of(f: BinaryIO, size: int, path: Path) -> dict[str, Entry]:
    """The same of a file that is open, and of so many bytes; `path` is what messages call it."""
    length = int.from_bytes(f.read(8), "little")
    if size < 8 or (length <= MAX_HEADER_BYTES and 8 + length > size):
        expected = 8 if size < 8 else 8 + length
        raise _cut(path, f"at least {expected}", size)
    if length > MAX_HEADER_BYTES:
        raise _damaged(path, f"its header would be {length} bytes long; this is not a safetensors file")
    raw = f.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as e:
        raise _damaged(path, f"its header is not JSON ({e})") from e
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    entries = sorted((_entry(path, name, value, 8 + length) for name, value in header.items()), key=lambda e: (e.start, e.end))
    end = 8 + length
    for entry in entries:
        if entry.start != end:
            raise _damaged(path, f"tensor {entry.info.name!r} starts at byte {entry.start}, but the one before it ends at {end}")
        end = entry.end
    if size < end:
        raise _cut(path, str(end), size)
    if size > end:
        raise _damaged(path, f"it has {size} bytes, but its header describes {end}")
    return {entry.info.name: entry for entry in entries}


def _entry(path: Path, name: str, value: Any, base: int) -> Entry:
    try:
        dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
    except (KeyError, TypeError, ValueError) as e:
        raise _damaged(path, f"the header's entry for tensor {name!r} is incomplete") from e
    numbers = [*shape, start, end] if isinstance(shape, list) else [None]
    if not all(type(n) is int and n >= 0 for n in numbers):
        raise _damaged(path, f"the header's shape or offsets of tensor {name!r} are not whole numbers: {shape}, [{start}, {end}]")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ModelError(f"{path}: tensor {name!r} has dtype {dtype!r}, which is not known; known: {', '.join(DTYPES)}")
    if not is_text(name):
        raise _damaged(path, f"the name of tensor {name!r} is not text")
    bits = math.prod(shape) * DTYPES[dtype].bits
    if bits % 8 or bits // 8 != end - start:
        needed = bits // 8 if bits.bit_length() < 64 else "far more"  # Python does not print numbers of thousands of digits
        raise _damaged(path, f"tensor {name!r} of shape {shape} and dtype {dtype} needs {needed} bytes, but has {end - start}")
    return Entry(TensorInfo(name, tuple(shape), dtype, path.name), base + start, base + end)


def _cut(path: Path, expected: str, actual: int) -> ModelError:
    return ModelError(f"{path} is cut short: expected {expected} bytes, it has {actual}; fetch the model again")


def _damaged(path: Path, what: str) -> ModelError:
    return ModelError(f"{path} is damaged: {what}; fetch the model again")
