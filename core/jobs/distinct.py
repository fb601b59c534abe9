"""Counting different things among very many, in bounded memory."""

from __future__ import annotations

#: Things kept before the sample is thinned: exact up to here, within about a percent beyond.
CAPACITY = 1 << 17

_ODD, _SIXTY_BITS = 0x9E3779B97F4A7C15, (1 << 60) - 1


class Distinct:
    """Counts repeats by keeping the things whose hash ends in so many zero bits, more bits as it fills.

    What is sampled is a thing, not an occurrence of it: of each one kept all occurrences are seen, so the share of repeats
    in the sample is that of the whole.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._kept: set[int] = set()
        self._mask = 0
        self.count = 0

    def add(self, key: int) -> None:
        """One more thing; equal ones have equal keys. A key need not be well mixed."""
        self.count += 1
        mixed = key * _ODD >> 20 & _SIXTY_BITS  # the lowest bits of a product know little of the key's high ones
        if mixed & self._mask:
            return
        self._kept.add(mixed)
        while len(self._kept) > self._capacity:
            self._mask = self._mask << 1 | 1
            self._kept = {one for one in self._kept if not one & self._mask}

    @property
    def exact(self) -> bool:
        return not self._mask

    @property
    def repeats(self) -> int:
        """The number of things that had come before; an estimate if not `exact`."""
        return max(self.count - len(self._kept) * (self._mask + 1), 0)
