"""Window of waiting texts, and the choice of those that go into the next step.

Knows lengths and requests; no torch.

A step takes the text that has waited longest, and with it those of the same setting that are nearest to it in length, until
the step is full. So nothing starves, answers come about in the order of their requests, and what attention does for the texts
of a step is much the same for all. What a text gets does not depend on any of it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import Generic, TypeVar

from ..types.pooling_request import TextIds
from .setting import Setting

Taker = TypeVar("Taker")


class Waiting(Generic[Taker]):
    """A text, and all who wait for what is made of it."""

    __slots__ = ("gone", "key", "setting", "takers", "text")

    def __init__(self, text: TextIds, key: int, setting: Setting, taker: Taker) -> None:
        self.text = text
        self.key = key
        self.setting = setting
        self.takers = [taker]
        self.gone = False


class _Group(Generic[Taker]):
    """The texts of one setting.

    lengths     5    7    8        in order
    by_length   ab   c    def      each as they came; some of them may be gone
    by_hash     whoever is first with a hash; looked up and not compared key by key, since hashing a text takes its time
    """

    __slots__ = ("by_hash", "by_length", "lengths")

    def __init__(self) -> None:
        self.by_hash: dict[int, Waiting[Taker]] = {}
        self.by_length: dict[int, deque[Waiting[Taker]]] = {}
        self.lengths: list[int] = []

    def add(self, waiting: Waiting[Taker]) -> None:
        length = len(waiting.text.ids)
        same = self.by_length.get(length)
        if same is None:
            same = self.by_length[length] = deque()
            insort(self.lengths, length)
        same.append(waiting)
        self.by_hash.setdefault(waiting.key, waiting)

    def find(self, text: TextIds, key: int) -> Waiting[Taker] | None:
        """The requests that wait for a text. Texts that share a hash with another one are not found, and so may be computed twice."""
        waiting = self.by_hash.get(key)
        return waiting if waiting is not None and waiting.text == text else None

    def leave(self, waiting: Waiting[Taker]) -> None:
        """A text is no longer to be found."""
        waiting.gone = True
        if self.by_hash.get(waiting.key) is waiting:
            del self.by_hash[waiting.key]

    def take(self, length: int, budget: int, most: int) -> list[Waiting[Taker]]:
        """Texts nearest to `length` first, up to `most` of at most `budget` tokens together; the first may be longer than that."""
        lengths, taken, room = self.lengths, list[Waiting[Taker]](), max(budget, length)
        above = bisect_left(lengths, length)
        below = above - 1
        while len(taken) < most:
            below = min(below, bisect_right(lengths, room) - 1)  # longer ones do not fit any more
            if above < len(lengths) and lengths[above] > room:
                above = len(lengths)
            if below < 0 and above == len(lengths):
                break
            if above == len(lengths) or (below >= 0 and length - lengths[below] <= lengths[above] - length):
                place, below = below, below - 1
            else:
                place, above = above, above + 1
            got = self._pop(lengths[place], min(room // lengths[place], most - len(taken)))
            room -= lengths[place] * len(got)
            taken += got
        if any(not self.by_length[length] for length in lengths):
            self.lengths = [length for length in lengths if self.by_length[length]]
            self.by_length = {length: self.by_length[length] for length in self.lengths}
        return taken

    def _pop(self, length: int, most: int) -> list[Waiting[Taker]]:
        same, got = self.by_length[length], list[Waiting[Taker]]()
        while same and len(got) < most:
            waiting = same.popleft()
            if not waiting.gone:
                self.leave(waiting)
                got.append(waiting)
        return got


class Window(Generic[Taker]):
    """Texts that are the same and of the same setting are one while they wait."""

    def __init__(self) -> None:
        self._groups: dict[Setting, _Group[Taker]] = {}
        self._arrived: deque[Waiting[Taker]] = deque()
        self._count = 0
        self.num_tokens = 0
        """Of the texts to compute."""

    def __len__(self) -> int:
        """Texts to compute."""
        return self._count

    def add(self, text: TextIds, setting: Setting, taker: Taker) -> None:
        """Takes a text for someone who is to have what is made of it."""
        group = self._groups.get(setting)
        if group is None:
            group = self._groups[setting] = _Group()
        key = hash(text)
        waiting = group.find(text, key)
        if waiting is not None:
            waiting.takers.append(taker)
            return
        waiting = Waiting(text, key, setting, taker)
        group.add(waiting)
        self._arrived.append(waiting)
        self._count += 1
        self.num_tokens += len(text.ids)

    def drop(self, text: TextIds, setting: Setting, taker: Taker) -> None:
        """Someone no longer wants a text that he added and that was not taken. It goes when nobody wants it."""
        group = self._groups[setting]
        waiting = group.find(text, hash(text))
        if waiting is None or taker not in waiting.takers:
            waiting = next(w for w in group.by_length[len(text.ids)] if taker in w.takers)
        waiting.takers.remove(taker)
        if not waiting.takers:
            group.leave(waiting)
            self._left([waiting])

    def take(self, budget: int, most: int) -> list[Waiting[Taker]]:
        """The texts of the next step, all of one setting: `budget` tokens and `most` texts at most, but one text at least. None wait
        afterwards; an empty list if none did."""
        arrived = self._arrived
        while arrived and arrived[0].gone:
            arrived.popleft()
        if not arrived:
            return []
        oldest = arrived[0]
        taken = self._groups[oldest.setting].take(len(oldest.text.ids), budget, most)
        assert taken[0] is oldest, "it is the first of its length"
        self._left(taken)
        return taken

    def _left(self, gone: list[Waiting[Taker]]) -> None:
        self._count -= len(gone)
        self.num_tokens -= sum(len(waiting.text.ids) for waiting in gone)
        if not self._count:  # forget those that are gone, and settings that may not come again
            self._groups.clear()
            self._arrived.clear()
