"""Frames between a parent and its processes, over a pair of sockets: JSON, and flat arrays of ints.

Nothing is ever unpickled.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

_LENGTH = struct.Struct("<q")
_PIECE = 1 << 20

#: What a process calls its error when it could not go on without another one.
LOST = "Lost"


class Closed(Exception):
    """The other side is gone."""


class Wire:
    """One end. `timeout` seconds bound how long the other side may keep this one waiting, None: for ever."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, data: bytes, *, timeout: float | None = None) -> None:
        """Raises Closed, or TimeoutError if the other side does not take it."""
        self._end.settimeout(timeout)
        try:
            self._end.sendall(_LENGTH.pack(len(data)) + data)
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self, *, timeout: float | None = None) -> bytes:
        """The next frame. Raises Closed at the end, or TimeoutError if none comes."""
        self._end.settimeout(timeout)
        (size,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            try:
                data = self._end.recv(min(_PIECE, size - len(parts)))
            except TimeoutError:
                raise
            except OSError as error:
                raise Closed(str(error)) from None
            if not data:
                raise Closed("the other side closed the connection")
            parts += data
        return bytes(parts)

    def send_json(self, value: Any, *, timeout: float | None = None) -> None:
        self.send(orjson.dumps(value), timeout=timeout)

    def receive_json(self, *, timeout: float | None = None) -> Any:
        return orjson.loads(self.receive(timeout=timeout))

    def close(self) -> None:
        self._end.close()


def pack_arrays(arrays: Sequence[NDArray[Any]]) -> bytes:
    """Arrays of ints as one flat one: how many, then each one's item size, dimensions and shape, then their bytes."""
    head = [len(arrays)]
    for array in arrays:
        head += [array.itemsize, array.ndim, *array.shape]
    return b"".join([np.array([len(head), *head], dtype=np.int64).tobytes(), *(array.tobytes() for array in arrays)])


def unpack_arrays(data: bytes) -> list[NDArray[Any]]:
    """The arrays that `pack_arrays` was given, each in memory that can be written."""
    length = int(np.frombuffer(data, np.int64, 1)[0])
    head = np.frombuffer(data, np.int64, length, offset=8).tolist()
    place, offset = 1, 8 * (length + 1)
    arrays = []
    for _ in range(head[0]):
        itemsize, ndim = head[place : place + 2]
        shape = head[place + 2 : place + 2 + ndim]
        place += 2 + ndim
        count = int(np.prod(shape))
        dtype: Any = np.dtype(f"<i{itemsize}")
        arrays.append(np.frombuffer(data, dtype, count, offset=offset).reshape(shape).copy())
        offset += count * itemsize
    return arrays
