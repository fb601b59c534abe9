"""Compressed input: gzip of any number of members, zstd of any number of frames, told by their first bytes.

Output is handed out in bounded pieces, however much a few bytes expand to. What is damaged or cut off is read up to the damage.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator
from typing import Any, Protocol

from ...errors import InferError
from .source import Source

#: Most a gzip decoder gives at once, in bytes. A zstd decoder gives a block, which is at most 128 KiB.
_PIECE = 256 << 10

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
#: The first bytes of zstd frames that hold no data differ in the low half of the first byte.
_ZSTD_SKIPPABLE = tuple(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60))
_ZSTD_MAGIC = (_ZSTD, *_ZSTD_SKIPPABLE)
_MAGIC = (_GZIP, *_ZSTD_MAGIC)
#: Most memory for what a zstd frame refers back to, in bytes: as much as `zstd` itself takes unless told otherwise.
_WINDOW_BITS = 27
#: The kind of zstd block that is one byte repeated.
_RUN = 1

_SUFFIXES = (".gz", ".zst")
#: What a file of JSON objects may begin with.
_TEXT = (b"{", b" ", b"\t", b"\r", b"\n", b"\xef\xbb\xbf")


class Damaged(Exception):
    """Compressed bytes make no sense; `position` is how many of them did."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position


class Decoder(Protocol):
    """Bytes in, other bytes out."""

    def feed(self, data: bytes) -> None:
        """More compressed bytes."""

    def decode(self) -> bytes:
        """The next piece; empty when more has to be fed. Raises Damaged, after all that could be decoded was given."""

    def finish(self) -> None:
        """There is no more to feed. Raises Damaged if there should be."""


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

    def ready(self) -> bool:
        while not self._next():
            if not self._source.ready():
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
    """Whether a file that begins so is compressed."""
    return head.startswith(_MAGIC)


def _decoder(head: bytes, name: str) -> Decoder:
    if head.startswith(_GZIP):
        return _Gzip()
    if head.startswith(_ZSTD_MAGIC):
        return _Zstd()
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


class _Gzip:
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
            out: bytes = self._inflate.decompress(data, _PIECE)
        except zlib.error as error:
            return self._up_to(error, before)
        self._more = len(out) == _PIECE
        self._data = self._inflate.unconsumed_tail
        if self._inflate.eof:
            self._data = self._inflate.unused_data
            self._inflate, self._more = None, False
        self._position += len(data) - len(self._data)
        return out

    def _up_to(self, error: zlib.error, inflate: Any) -> bytes:
        """What comes out before the byte that `error` is about."""
        out = []
        for i in range(len(self._data)):
            try:
                out.append(inflate.decompress(self._data[i : i + 1]))
            except zlib.error:
                self._error = Damaged(self._position + i, str(error).rpartition(": ")[2])
                break
        return b"".join(out)


class _Zstd:
    """Frames one after the other. They are fed to the library block by block, so that no call gives more than a block."""

    def __init__(self) -> None:
        import zstandard

        self._library = zstandard.ZstdDecompressor()
        self._data = b""
        self._at = 0  # what is before it in _data has been used
        self._position = 0  # of _at in the file
        self._inside = False  # a frame has begun and not ended
        self._out = b""
        self._parts = self._frames()
        self._need = next(self._parts)  # the length of the next part

    def feed(self, data: bytes) -> None:
        self._data = self._data[self._at :] + data
        self._at = 0

    def decode(self) -> bytes:
        while not self._out and len(self._data) - self._at >= self._need:
            length = self._need
            self._need = self._parts.send(self._data[self._at : self._at + length])
            self._at += length
            self._position += length
        out, self._out = self._out, b""
        return out

    def finish(self) -> None:
        if self._inside or self._at < len(self._data):
            raise Damaged(self._position, "it is cut off")

    def _frames(self) -> Generator[int, bytes, None]:
        """Yields how long the next part of the file is and is sent that part."""
        while True:
            magic = yield 4
            self._inside = True
            if magic == _ZSTD:
                yield from self._frame(magic)
            elif magic in _ZSTD_SKIPPABLE:
                left = int.from_bytes((yield 4), "little")
                while left:
                    left -= len((yield min(left, _PIECE)))
            else:
                raise Damaged(self._position, "no zstd frame begins here")
            self._inside = False

    def _frame(self, magic: bytes) -> Generator[int, bytes, None]:
        """See RFC 8878, section 3.1.1."""
        frame = self._library.decompressobj()
        self._decompress(frame, magic)
        descriptor = yield 1
        self._decompress(frame, descriptor)
        flags = descriptor[0]
        single_segment = flags >> 5 & 1
        length = (1 - single_segment) + (0, 1, 2, 4)[flags & 3] + (single_segment, 2, 4, 8)[flags >> 6]
        rest = yield length
        _refuse_long_window(self._position - 5, descriptor, rest)  # from its magic number on
        self._decompress(frame, rest)
        last = 0
        while not last:
            header = yield 3
            self._decompress(frame, header)
            number = int.from_bytes(header, "little")
            last, kind, size = number & 1, number >> 1 & 3, number >> 3
            if size:
                self._decompress(frame, (yield 1 if kind == _RUN else size))
        if flags >> 2 & 1:
            self._decompress(frame, (yield 4))
        if not frame.eof:
            raise Damaged(self._position, "a zstd frame does not end where it should")

    def _decompress(self, frame: Any, part: bytes) -> None:
        import zstandard

        try:
            self._out += frame.decompress(part)
        except zstandard.ZstdError as error:
            raise Damaged(self._position, str(error)) from None


def _refuse_long_window(position: int, descriptor: bytes, rest: bytes) -> None:
    """Raises Damaged for a frame that takes too much memory to decompress; `rest` is its header after the descriptor."""
    flags = descriptor[0]
    if flags >> 5 & 1:  # one segment: the window is all there is
        size = rest[(0, 1, 2, 4)[flags & 3] :]
        window = int.from_bytes(size, "little") + (256 if len(size) == 2 else 0)
    else:
        base = 1 << (10 + (rest[0] >> 3))
        window = base + base // 8 * (rest[0] & 7)
    if window > 1 << _WINDOW_BITS:
        bits = (window - 1).bit_length()
        needs = (
            f"its window is {window / 2**20:,.0f} MiB, and at most {2**_WINDOW_BITS / 2**20:,.0f} MiB are given (it was made with --long)"
        )
        raise Damaged(position, f"{needs}; decompress it in front: zstd -dc --long={bits} FILE | infer ... -")
