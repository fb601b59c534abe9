"""Tensors of floats as numpy reads them, where no torch is wanted: float32 of the types that safetensors files have."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .header import Entry, header_of

#: Types of safetensors -> those of the bytes, in numpy.
FLOATS: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def as_float32(data: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A tensor of its bytes; `dtype` is one of FLOATS. What float32 cannot hold is infinite."""
    values = np.frombuffer(data, FLOATS[dtype]).reshape(shape)
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def read_bytes(data: bytes, name: str) -> dict[str, tuple[Entry, memoryview]]:
    """The tensors of a safetensors file in memory, each with its bytes. Raises ModelError, which calls the file `name`."""
    view = memoryview(data)
    return {key: (entry, view[entry.start : entry.end]) for key, entry in header_of(io.BytesIO(data), len(data), Path(name)).items()}
