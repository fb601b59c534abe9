"""The places of rows that are finished and not in the output yet."""

from __future__ import annotations

from array import array
from collections.abc import Iterator


class SpillIndex:
    """Places in the journal of the rows from `base` on: 16 bytes a row, whatever it holds."""

    def __init__(self) -> None:
        self.base = 0
        self._offsets = array("Q")
        self._sizes = array("Q")
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, ordinal: int) -> bool:
        place = ordinal - self.base
        return 0 <= place < len(self._sizes) and self._sizes[place] > 0

    def put(self, ordinal: int, offset: int, size: int) -> None:
        place = ordinal - self.base
        if place < 0:
            return
        missing = place + 1 - len(self._sizes)
        if missing > 0:
            self._offsets.extend([0] * missing)
            self._sizes.extend([0] * missing)
        self._count += self._sizes[place] == 0
        self._offsets[place], self._sizes[place] = offset, size

    def get(self, ordinal: int) -> tuple[int, int]:
        return self._offsets[ordinal - self.base], self._sizes[ordinal - self.base]

    def ordinals(self) -> Iterator[int]:
        return (self.base + place for place, size in enumerate(self._sizes) if size)

    def drop_before(self, ordinal: int) -> None:
        """Forgets the rows before `ordinal`; cheap however often it is called."""
        dropped = ordinal - self.base
        if dropped > max(1024, len(self._sizes) // 2) or dropped >= len(self._sizes):
            self._count -= sum(1 for size in self._sizes[:dropped] if size)
            del self._offsets[:dropped], self._sizes[:dropped]
            self.base = ordinal
