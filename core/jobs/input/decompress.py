"""Compressed input: gzip of any number of members, zstd of any number of frames, told by their first bytes.

Output is handed out in bounded pieces, however much a few bytes expand to. What is damaged or cut off is read up to the damage.
"""

from __future__ import annotations

from ...errors import InferError
from . import gzip, zstd
from .decoder import Damaged, Decoder
from .source import Source

_SUFFIXES = (".gz", ".zst")
_MAGIC = (gzip.MAGIC, *zstd.MAGIC)
#: What a file of JSON objects may begin with.
_TEXT = (b"{", b" ", b"\t", b"\r", b"\n", b"\xef\xbb\xbf")
#: Most compressed bytes read at once where nothing says how many.
_PIECE = 256 << 10


class Decompressed:
    """A Source on another one: what it gives, decompressed if it is compressed.

    Args:
        source: the bytes as they are.
        name: of the input, for messages; a file named .gz or .zst must not be empty.
    """

    def __init__(self, source: Source, name: str = "") -> None:
        self.name = name
        self._source = source
        self._head = b""  # until it tells what decoder it needs
        self._decoder: Decoder | None = None
        self._ended = False
        self._out = b""
        self._failure: InferError | None = None

    def read(self, size: int) -> bytes:
        while not self._next():
            self._fill(size)
        if self._failure is not None and not self._out:
            raise self._failure
        data, self._out = self._out, b""
        return data

    def ready(self, seconds: float = 0.0) -> bool:
        while not self._next():
            if not self._source.ready(seconds):
                return False
            try:
                self._fill(_PIECE)
            except InferError:
                return True  # `read` will say it
        return True

    def _next(self) -> bool:
        """Decodes what has been read. Whether `read` has its answer: bytes, the end, or a failure."""
        if self._out or self._failure is not None or self._decoder is None:
            return bool(self._out) or self._failure is not None
        try:
            self._out = self._decoder.decode()
            if self._ended and not self._out:
                self._decoder.finish()
        except Damaged as error:
            self._fail(error)
        return bool(self._out) or self._failure is not None or self._ended

    def _fill(self, size: int) -> None:
        data = self._source.read(size)
        self._ended = not data
        if self._decoder is None:
            self._head = data = self._head + data
            if not self._ended and any(magic.startswith(data) for magic in _MAGIC):
                return  # too little to tell
            try:
                self._decoder = _decoder(data, self.name)
            except Damaged as error:
                self._fail(error)
                return
        self._decoder.feed(data)

    def _fail(self, error: Damaged) -> None:
        self._failure = InferError(f"input {self.name!r} cannot be decompressed from byte {error.position:,} on: {error}")


def is_compressed(head: bytes) -> bool:
    """True if a file that begins so is compressed."""
    return head.startswith(_MAGIC)


def _decoder(head: bytes, name: str) -> Decoder:
    if head.startswith(gzip.MAGIC):
        return gzip.Gzip()
    if head.startswith(zstd.MAGIC):
        return zstd.Zstd()
    if name.endswith(_SUFFIXES) and not head.startswith(_TEXT):
        raise Damaged(0, "it is neither gzip nor zstd" if head else "it is empty")
    return _Plain()


class _Plain:
    """Bytes that are not compressed."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> None:
        self._data += data

    def decode(self) -> bytes:
        data, self._data = self._data, b""
        return data

    def finish(self) -> None:
        pass
