"""Shares of the lanes in what runs: ints only, the same object in every lane's scheduler."""

from __future__ import annotations

from dataclasses import dataclass

#: Tokens of prompts that a batch takes at least, if there are so many: with fewer the last ones would be long on their way.
LEAST = 16


@dataclass(slots=True)
class Shares:
    """Sequences are shared out to the first `active` lanes. The others give what they have to these."""

    active: int = 1
    batches: int = 0
    """Batches that waiting prompts are spread over, so that they are nearly equal; 0: each takes as much as it can."""

    def most(self, lane: int, most: int, known: int) -> int:
        """Sequences that may run in lane number `lane`.

        Args:
            most: those that may run in all lanes.
            known: those that run or wait.
        """
        if lane >= self.active:
            return 0
        return min(-(-known // self.active), max(1, most // self.active))

    def tokens(self, sequences: int, left: int) -> int:
        """Tokens of a lane's next batch at most. Batches of the other lanes come right before and behind it, and the largest sets the pace
        of all, so what is known of prompts is spread over several.

        Args:
            sequences: those that run in the lane.
            left: tokens of prompts that are known and not computed, of all lanes.
        """
        return sequences + max(LEAST, -(-left // self.batches))

    def slack(self, fair: int) -> int:
        """Sequences that a lane may have over its fair share before it gives some away."""
        return 0 if self.batches else max(1, fair // 8)
