"""Waiting sequences, in the order in which they are to start.

A job knows its work, so it need not start records as they come: long outputs first, so that at the end no few of them
run alone; and records with a common prefix one after the other, so that the prefix is found in the cache. What a
record gets does not depend on it.

    front     have been reached before: preempted, held back, or waited for their prompt; or go on with a record that was
    ordered   the generation that is being started
    arrived   everything else, as it came; the next generation is its first `look_ahead`

So a record is overtaken by its own generation and no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from ...types.request import Request, Sequence

#: Outputs that may end earlier than they must are not expected to be longer than this.
_USUAL_OUTPUT = 512
#: Prefixes are compared up to here.
_PREFIX = 1024


class WaitingQueue:
    """
    Args:
        look_ahead: most sequences of a generation while more may come; 1 is first come, first served.
    """

    def __init__(self, look_ahead: int) -> None:
        self.look_ahead = look_ahead
        self._front: deque[Sequence] = deque()
        self._ordered: list[Sequence] = []  # the next one last
        self._arrived: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._front) + len(self._ordered) + len(self._arrived)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._front
        yield from reversed(self._ordered)
        yield from self._arrived

    def add(self, sequence: Sequence) -> None:
        """Takes a new sequence, to the front if it goes on with a record that was begun."""
        (self._front if sequence.request.goes_on else self._arrived).append(sequence)

    def put_back(self, sequences: Iterable[Sequence]) -> None:
        """Takes sequences that go before all others, the first of them first."""
        self._front.extendleft(reversed(list(sequences)))

    def pop(self) -> Sequence:
        """The sequence to try next. There must be one."""
        if self._front:
            return self._front.popleft()
        if not self._ordered:
            self._order(self._arrived.popleft() for _ in range(min(self.look_ahead, len(self._arrived))))
        return self._ordered.pop()

    def gather(self) -> None:
        """Makes one generation of all that were not reached: no more will come to overtake them."""
        self._order([*reversed(self._ordered), *self._arrived])
        self._arrived.clear()

    def _order(self, generation: Iterable[Sequence]) -> None:
        self._ordered = sorted(generation, key=_place)[::-1]

    def remove(self, request: Request) -> None:
        """Drops a request's choices."""
        self._front = deque(s for s in self._front if s.request is not request)
        self._ordered = [s for s in self._ordered if s.request is not request]
        self._arrived = deque(s for s in self._arrived if s.request is not request)


def expected_output(sequence: Sequence) -> int:
    """The number of tokens that it will probably get."""
    most = sequence.max_length - sequence.num_prompt
    return most if sequence.params.ignore_eos else min(most, _USUAL_OUTPUT)


def _place(sequence: Sequence) -> tuple[int, bytes, bytes, bytes]:
    """Orders a generation: by powers of two of the output's length, within one by adapter (there may be places for few, and what is cached
    is of one), and then by the prompt's tokens.

    Sorted like words in a dictionary, prompts stand beside those that begin like them, however deep their common prefixes
    nest; with the exact length in front of that nothing would stand together.
    """
    prompt = np.array(sequence.tokens[:_PREFIX], dtype=">u4")  # big-endian: bytes compare as the numbers do
    virtual = sequence.request.embeds.digest if sequence.request.embeds is not None else b""
    virtual += b"".join(placed.key for placed in sequence.request.media)
    adapter = b"" if sequence.adapter is None else sequence.adapter.salt
    return -expected_output(sequence).bit_length(), adapter, virtual, prompt.tobytes()
