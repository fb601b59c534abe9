"""zstd, of any number of frames."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from .decoder import PIECE, Damaged

_FRAME = b"\x28\xb5\x2f\xfd"
#: The first bytes of frames that hold no data differ in the low half of the first byte.
_SKIPPABLE = tuple(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60))
#: The first bytes of a frame.
MAGIC = (_FRAME, *_SKIPPABLE)
#: Most memory for what a frame refers back to, in bytes: as much as `zstd` itself takes unless told otherwise.
_WINDOW_BITS = 27
#: The kind of block that is one byte repeated.
_RUN = 1


class Zstd:
    """Frames one after the other. They are fed to the library block by block, so that no call gives more than a block,
    which is at most 128 KiB."""

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
            if magic == _FRAME:
                yield from self._frame(magic)
            elif magic in _SKIPPABLE:
                left = int.from_bytes((yield 4), "little")
                while left:
                    left -= len((yield min(left, PIECE)))
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
