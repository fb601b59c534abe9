"""The selection of records that a run answers."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigError


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`: record k of the whole input belongs to shard k mod count."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "I/N". Raises ConfigError."""
        index, slash, count = text.partition("/")
        if not (slash and index.isascii() and index.isdigit() and count.isascii() and count.isdigit() and int(count)):
            raise ConfigError(f"{text!r} is not I/N, such as 0/4: part 0 of 4")
        shard = cls(int(index), int(count))
        if shard.index >= shard.count:
            raise ConfigError(f"{text!r}: parts are counted from 0, so the last of {shard.count} is {shard.count - 1}")
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class Selection:
    """The records from `offset` on, at most `limit` of them, and of those the ones that belong to `shard`."""

    offset: int = 0
    limit: int | None = None
    shard: Shard = Shard(0, 1)

    @property
    def stop(self) -> int | None:
        """The index from which on nothing is read; None: the end of the input."""
        return None if self.limit is None else self.offset + self.limit

    def __contains__(self, index: int) -> bool:
        return index >= self.offset and (self.stop is None or index < self.stop) and index % self.shard.count == self.shard.index
