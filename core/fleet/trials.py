"""Trials: requests that may be what ends replicas are tried apart from others, among fewer and fewer, until one is found out or cleared."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from .loads import Loads
from .member import Asked, Member

#: Replicas that may be lost with a request before it is suspected to be the reason.
_SUSPECT = 2
#: Replicas that had a suspected request alone and were lost with it, until it is taken for the reason.
_GUILTY = 2


class Trials:
    """The requests of a fleet that are under suspicion, and the replica that is set apart for them.

    Attributes:
        apart: that replica; None where none is.
    """

    def __init__(self) -> None:
        self.apart: Member | None = None
        self._groups: deque[list[str]] = deque()
        """Groups of suspected requests, each to be tried together."""

    def next(self, loads: Loads, is_open: Callable[[str], bool]) -> tuple[Member, list[str]] | None:
        """The replica that is set apart, and the group to give it now, which it then has alone; None while there is nothing to give.

        Args:
            loads: the replicas that are given other work; the one set apart is taken out of them, and put back after the last group.
            is_open: true of a request that nobody has answered.
        """
        while self._groups and not (group := [name for name in self._groups[0] if is_open(name)]):
            self._groups.popleft()
        if self.apart is None:
            if not self._groups or (member := loads.least()) is None:
                return None
            self.apart = member
            loads.drop(member)
        member = self.apart
        if member.load:  # it has work of before, or a group
            return None
        member.is_on_trial = bool(self._groups)
        if self._groups:
            self._groups.popleft()
            return member, group
        self.apart = None
        loads.note(member)
        return None

    def judge(self, names: Sequence[str], requests: Mapping[str, Asked], member: Member) -> tuple[list[str], list[str]]:
        """Counts the loss of a replica, and suspects what has been there too often.

        Args:
            names: the requests that it had, in order.
            requests: those and others by name.

        Returns those to be asked again like any other, and those that are found to be the reason.
        """
        again: list[str] = []
        suspects: list[str] = []
        guilty: list[str] = []
        for name in names:
            asked = requests[name]
            asked.num_lost += 1
            asked.num_lost_alone += len(names) == 1
            if asked.num_lost_alone >= _GUILTY and asked.num_lost > _SUSPECT:
                guilty.append(name)
            elif asked.num_lost >= _SUSPECT:
                suspects.append(name)
            else:
                again.append(name)
        half = -(-len(suspects) // 2) if member.is_on_trial else len(suspects)
        self._groups.extendleft(group for group in (suspects[half:], suspects[:half]) if group)
        if member is self.apart:
            self.apart = None
        return again, guilty
