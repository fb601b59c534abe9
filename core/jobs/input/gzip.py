"""gzip, of any number of members."""

from __future__ import annotations

import zlib
from typing import Any

from .decoder import PIECE, Damaged

#: The first bytes of a member.
MAGIC = b"\x1f\x8b"


class Gzip:
    """Members one after the other; zeros between and after them are padding."""

    def __init__(self) -> None:
        self._data = b""  # fed and not used yet
        self._position = 0  # of _data in the file
        self._inflate: Any = zlib.decompressobj(wbits=31)  # None between members
        self._more = False  # whether the last piece was full, so that there may be more without more data
        self._error: Damaged | None = None

    def feed(self, data: bytes) -> None:
        self._data += data

    def decode(self) -> bytes:
        if self._error is not None:
            raise self._error
        while self._data or self._more:
            if self._inflate is None and not self._begin():
                break
            if out := self._step():
                return out
            if self._error is not None:
                raise self._error
        return b""

    def finish(self) -> None:
        if self._inflate is not None:
            raise Damaged(self._position, "it is cut off")

    def _begin(self) -> bool:
        """The next member, if there is one in what was fed."""
        rest = self._data.lstrip(b"\0")
        self._position += len(self._data) - len(rest)
        self._data = rest
        if rest:
            self._inflate = zlib.decompressobj(wbits=31)
        return bool(rest)

    def _step(self) -> bytes:
        before = self._inflate.copy()
        data = self._data
        try:
            out: bytes = self._inflate.decompress(data, PIECE)
        except zlib.error as error:
            return self._up_to(error, before)
        self._more = len(out) == PIECE
        self._data = self._inflate.unconsumed_tail
        if self._inflate.eof:
            self._data = self._inflate.unused_data
            self._inflate, self._more = None, False
        self._position += len(data) - len(self._data)
        return out

    def _up_to(self, error: zlib.error, inflate: Any) -> bytes:
        """The output up to the byte that `error` is about."""
        out = []
        for i in range(len(self._data)):
            try:
                out.append(inflate.decompress(self._data[i : i + 1]))
            except zlib.error:
                self._error = Damaged(self._position + i, str(error).rpartition(": ")[2])
                break
        return b"".join(out)
