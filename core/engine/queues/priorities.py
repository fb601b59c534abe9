"""Waiting sequences by the priorities of their requests: those with the lowest value go first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from ...types.request import Request, Sequence
from .waiting import WaitingQueue


class PriorityQueues:
    """A `WaitingQueue` for each priority, with the interface of one: within a priority all is as without priorities.

    Args:
        look_ahead: see `WaitingQueue`.
    """

    def __init__(self, look_ahead: int) -> None:
        self.look_ahead = look_ahead
        self._queues: dict[int, WaitingQueue] = {}
        self._priorities: list[int] = []  # a heap of the keys of _queues
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Sequence]:
        for priority in sorted(self._queues):
            yield from self._queues[priority]

    def add(self, sequence: Sequence) -> None:
        """Takes a new sequence."""
        self._queue(sequence.request.priority).add(sequence)
        self._size += 1

    def put_back(self, sequences: Iterable[Sequence]) -> None:
        """Takes sequences that go before all others of their priority, the first of them first."""
        groups: dict[int, list[Sequence]] = {}
        for sequence in sequences:
            groups.setdefault(sequence.request.priority, []).append(sequence)
            self._size += 1
        for priority, group in groups.items():
            self._queue(priority).put_back(group)

    def pop(self) -> Sequence:
        """The sequence to try next. There must be one."""
        while not (queue := self._queues[self._priorities[0]]):
            del self._queues[heappop(self._priorities)]
        self._size -= 1
        return queue.pop()

    def gather(self) -> None:
        """Makes one generation of all of a priority that were not reached."""
        for queue in self._queues.values():
            queue.gather()

    def remove(self, request: Request) -> None:
        """Drops a request's choices."""
        queue = self._queues.get(request.priority)
        if queue is not None:
            before = len(queue)
            queue.remove(request)
            self._size -= before - len(queue)

    def _queue(self, priority: int) -> WaitingQueue:
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = WaitingQueue(self.look_ahead)
            heappush(self._priorities, priority)
        return queue
