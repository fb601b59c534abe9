"""NumPy's file of one array, version 1.0: `np.load(OUT, mmap_mode="r")` reads it.

    6 bytes    \\x93NUMPY          the format's mark
    2 bytes    1, 0               its version
    2 bytes    length of the header, little-endian
    header     a dict as Python writes it, padded with spaces so that the values begin at a multiple of 64; ends with a newline
    values     row by row

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

from collections.abc import Callable

from .matrix import Matrix

_ALIGN = 64


def write_npy(matrix: Matrix, write: Callable[[bytes], None]) -> None:
    """The matrix as an array [rows, columns]."""
    shape = matrix.num_rows, matrix.columns
    header = repr({"descr": matrix.stored_dtype.str, "fortran_order": False, "shape": shape}).encode()
    start = b"\x93NUMPY\x01\x00"
    header += b" " * (-(len(start) + 2 + len(header) + 1) % _ALIGN) + b"\n"
    write(start + len(header).to_bytes(2, "little") + header)
    for piece in matrix.pieces():
        write(piece)
