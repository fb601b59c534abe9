"""A vector as bytes, in the types that embeddings are kept in.

float32, float16    as they are
int8                each vector times 127 / (its largest magnitude): its direction, so compare by cosine
binary              one bit a value, 1 where it is above zero; eight to a byte, the first one highest
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import RecordError

#: Name -> how values lie in memory and in files, wherever they were made.
_STORED = {"float32": "<f4", "float16": "<f2", "int8": "|i1", "binary": "|u1"}
DTYPES = tuple(_STORED)


def decoded_dtype(dtype: str) -> np.dtype[Any]:
    """The dtype with which `np.frombuffer` reads what `encode_vector` wrote."""
    return np.dtype(_STORED[dtype])


def num_columns(size: int, dtype: str) -> int:
    """Stored values of a vector of `size`: bits are packed."""
    return (size + 7) // 8 if dtype == "binary" else size


def encode_vector(values: NDArray[np.float32], dtype: str) -> bytes:
    """float32 [size] as bytes of the type `dtype`, one of DTYPES.

    Raises RecordError: non_finite_logits; invalid_value for a number that is too large for float16.
    """
    if not np.isfinite(values).all():
        raise RecordError("non_finite_logits", "the model gave a vector with a value that is not a number")
    if dtype == "binary":
        return np.packbits(values > 0).tobytes()
    if dtype == "int8":
        values = _to_int8(values)
    elif dtype == "float16" and np.abs(values).max(initial=0) >= _FLOAT16_END:
        raise RecordError("invalid_value", "the vector has a value too large for float16; use --embedding-dtype float32")
    return values.astype(decoded_dtype(dtype)).tobytes()


def failed_vector(size: int, dtype: str) -> bytes:
    """The bytes in place of a missing vector: NaN; zeros where there is no NaN."""
    stored = decoded_dtype(dtype)
    return np.full(num_columns(size, dtype), np.nan if stored.kind == "f" else 0, stored).tobytes()


#: From here on a value is rounded to infinity.
_FLOAT16_END = 65520.0


def _to_int8(values: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = np.abs(values).max(initial=0)
    if not largest:
        return values
    # Divided first: 127 times a large value is none, and 127 over a tiny one neither.
    return np.rint(values / largest * np.float32(127))
