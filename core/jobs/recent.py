"""A bounded memory of keys: tells whether one came before, among the last few hundred thousand."""

from __future__ import annotations

from array import array

_BUCKETS, _WAYS = 1 << 18, 4
_64_BITS = (1 << 64) - 1
#: Up to so many are all remembered, in a set; most files have no more.
_FEW = 1 << 12


class Recent:
    """Knows the last few hundred thousand things by their hashes; older ones are forgotten little by little. 8 MiB, once there are many."""

    def __init__(self) -> None:
        self._few: set[int] = set()
        self._table = array("Q")

    def add(self, key: str) -> bool:
        """Remembers a key. True if the same one came before, as far as is known."""
        hashed = hash(key) & _64_BITS or 1  # 0 is an empty place
        if not self._table:
            if hashed in self._few:
                return True
            self._few.add(hashed)
            if len(self._few) > _FEW:
                self._table = array("Q", bytes(8 * _BUCKETS * _WAYS))
                for one in self._few:
                    self._put(one)
                self._few.clear()
            return False
        return self._put(hashed)

    def _put(self, hashed: int) -> bool:
        start = hashed % _BUCKETS * _WAYS
        bucket = self._table[start : start + _WAYS]
        if hashed in bucket:
            return True
        self._table[start + 1 : start + _WAYS] = bucket[:-1]
        self._table[start] = hashed
        return False
