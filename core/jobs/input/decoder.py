"""Decoder: compressed bytes in, piece by piece, and plain ones out."""

from __future__ import annotations

from typing import Protocol

#: Most bytes that a decoder gives at once.
PIECE = 256 << 10


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
