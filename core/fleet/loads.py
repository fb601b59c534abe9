"""Replicas by the work that they have, so that the one with the least is found at once among a thousand."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .member import Member


class Loads:
    """The members of a fleet that may be given more, by load."""

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}
        self._heap: list[tuple[int, int]] = []
        """(load, number) of each, and what it was before: an entry that is not true any more is passed over."""

    def __len__(self) -> int:
        return len(self._members)

    def note(self, member: Member) -> None:
        """Takes a member up, or sees that its load has changed."""
        self._members[member.number] = member
        if len(self._heap) > 8 * len(self._members) + 64:
            self._heap = [(one.load, number) for number, one in self._members.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (member.load, member.number))

    def drop(self, member: Member) -> None:
        """Gives it no more."""
        self._members.pop(member.number, None)

    def least(self) -> Member | None:
        """The one with the lowest load, of several the lowest number; None if there is none."""
        while self._heap:
            load, number = self._heap[0]
            member = self._members.get(number)
            if member is not None and member.load == load:
                return member
            heapq.heappop(self._heap)
        return None
