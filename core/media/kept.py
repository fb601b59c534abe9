"""Kept: the last used values up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """
    Args:
        most: bytes of all values; one that is larger is not kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: K) -> V | None:
        """The value, as the last used one; None if it is not kept."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, num_bytes: int) -> None:
        """Keeps a value, and lets go of those that were not used for longest."""
        if key in self._values:
            self.num_bytes -= self._values.pop(key)[1]
        if num_bytes > self._most:
            return
        self._values[key] = value, num_bytes
        self.num_bytes += num_bytes
        while self.num_bytes > self._most:
            self.num_bytes -= self._values.popitem(last=False)[1][1]
