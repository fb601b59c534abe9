"""Room among the running sequences for the beams that searches may still come to."""

from __future__ import annotations

from collections.abc import Callable

from ...types.request import Sequence
from ..running import Running


def places(running: Running, max_num_seqs: int) -> Callable[[Sequence], bool]:
    """What takes a place among the running for a waiting sequence, and for the beams that its group may still come to; False if
    there are not so many. A group wider than `max_num_seqs` has all the places to itself, and its beams take turns."""
    present = {s.group for s in running if s.group is not None}
    single = sum(s.group is None for s in running)
    free = max_num_seqs - single - sum(min(group.width, max_num_seqs) for group in present)

    def take(sequence: Sequence) -> bool:
        nonlocal free
        group = sequence.group
        wanted = 0 if group in present else 1 if group is None else min(group.width, max_num_seqs)
        if wanted > free:
            return False
        free -= wanted
        if group is not None:
            present.add(group)
        return True

    return take
