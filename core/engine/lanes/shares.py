"""Shares of the lanes in what runs: ints only, the same object in every lane's scheduler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Shares:
    """Sequences are shared out to the first `active` lanes. The others give what they have to these."""

    active: int = 1

    def most(self, lane: int, most: int, known: int) -> int:
        """Sequences that may run in lane number `lane`.

        Args:
            most: those that may run in all lanes.
            known: those that run or wait.
        """
        if lane >= self.active:
            return 0
        return min(-(-known // self.active), max(1, most // self.active))

    @staticmethod
    def slack(fair: int) -> int:
        """Sequences that a lane may have over its fair share before it gives some away."""
        return max(1, fair // 8)
