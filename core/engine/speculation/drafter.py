"""Drafter: the interface of what proposes the next tokens of sequences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from ...types.request import Sequence


@dataclass(slots=True)
class Draft:
    tokens: list[int] = field(default_factory=list)
    """That may come next, in order."""
    past: int = 0
    """Tokens before them that stood as they did where these come from: the more, the surer. 0: there is nothing to count."""


class Drafter(Protocol):
    """Guesses how sequences go on. A wrong guess costs time and nothing else."""

    def draft(self, wanted: list[tuple[Sequence, int]]) -> list[Draft]:
        """For each (sequence, most) at most so many tokens that may come after its newest one; none where there is no guess."""

    def keep(self, sequences: Iterable[Sequence]) -> None:
        """Forgets what is known of all others: they have ended, or do not run."""
