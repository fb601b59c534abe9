"""A safetensors file with one tensor, `embeddings`, and how it was made in its metadata.

    8 bytes    length of the header, little-endian
    header     JSON: name -> dtype, shape, place; __metadata__ has strings; padded with spaces to a multiple of 8
    values     row by row

https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from .matrix import Matrix

TENSOR = "embeddings"
_NAMES = {"float32": "F32", "float16": "F16", "int8": "I8", "binary": "U8"}
_ALIGN = 8


def write_safetensors(matrix: Matrix, write: Callable[[bytes], None]) -> None:
    """The matrix as a tensor [rows, columns]."""
    tensor = {"dtype": _NAMES[matrix.dtype], "shape": [matrix.num_rows, matrix.columns], "data_offsets": [0, matrix.num_bytes]}
    header = orjson.dumps({"__metadata__": dict(sorted(matrix.description().items())), TENSOR: tensor})
    header += b" " * (-len(header) % _ALIGN)
    write(len(header).to_bytes(8, "little") + header)
    for piece in matrix.pieces():
        write(piece)
