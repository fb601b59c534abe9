"""Turns of beams in the schedule: room for those to come, and blocks that a group loses together.

A beam that has nothing to compute until the others of its group catch up stays where it is with no share of the step. Beams of one
search that are more than a step takes, or than there are blocks for, take turns. Knows lengths and blocks, never tensors or text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ...types.request import Beams, Request, Sequence
from ..blocks import BlockManager
from ..queues.priorities import PriorityQueues
from ..queues.waiting import WaitingQueue
from ..running import Running
from .group import Moves


class BeamTurns:
    """
    Args:
        running, blocks, waiting: the scheduler's.
        max_num_seqs: most sequences in one step.
    """

    def __init__(self, running: Running, blocks: BlockManager, waiting: WaitingQueue | PriorityQueues, max_num_seqs: int) -> None:
        self._running = running
        self._blocks = blocks
        self._waiting = waiting
        self._max_num_seqs = max_num_seqs
        self._groups: set[Beams] = set()
        self._forked: set[Sequence] = set()
        """Running sequences whose last block others may hold too, since they were last scheduled."""

    def __len__(self) -> int:
        """Searches that are not over."""
        return len(self._groups)

    def open(self, group: Beams) -> None:
        """Takes the beams of a new search."""
        self._groups.add(group)

    # -- a step ----------------------------------------------------------------------------------------------------
    @property
    def most_at_a_time(self) -> int:
        """Sequences that may run at a time: one search may have more beams than there are places."""
        return max(self._max_num_seqs, *(group.width for group in self._groups))

    def places(self) -> Callable[[Sequence], bool]:
        """A function that takes a place among the running for a waiting sequence, and for the beams that its group may still come to;
        False if there are not so many. A group that is too wide has all the places to itself."""
        most = self._max_num_seqs
        present = {s.group for s in self._running if s.group is not None}
        single = sum(s.group is None for s in self._running)
        free = most - single - sum(min(group.width, most) for group in present)

        def take(sequence: Sequence) -> bool:
            nonlocal free
            group = sequence.group
            wanted = 0 if group in present else 1 if group is None else min(group.width, most)
            if wanted > free:
                return False
            free -= wanted
            if group is not None:
                present.add(group)
            return True

        return take

    def are_forked(self, count: int) -> NDArray[np.bool_]:
        """[count] True for those of the first running sequences that may need a copy of their last block."""
        return np.array([s in self._forked for s in self._running.sequences[:count]], dtype=bool)

    def has_grown(self, sequence: Sequence) -> None:
        """A sequence has the blocks that it writes next for itself."""
        self._forked.discard(sequence)

    def put_idle_last(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Moves running sequences without a share of the step behind those that have one; the latter's counts."""
        if counts.all():
            return counts
        busy = np.flatnonzero(counts)
        order = [*busy.tolist(), *np.flatnonzero(counts == 0).tolist(), *range(len(counts), len(self._running))]
        self._running.reorder(order)
        return counts[busy]

    def preempt(self, sequence: Sequence) -> set[int]:
        """Takes the blocks of all running beams of a sequence's group; returns them. Beams that have nothing to compute are not
        queued: they come back when the others have caught up."""
        members = [s for s in self._running if s.group is sequence.group]
        lost = {block for s in members for block in s.blocks}
        self._running.remove(set(members))
        for member in members:
            self._forked.discard(member)
            self._blocks.free(member)
            member.num_computed = 0
        self._waiting.put_back(s for s in members if s.group is not None and not s.group.waits(s))
        return lost

    # -- after a step ----------------------------------------------------------------------------------------------
    def fork(self, all_moves: SequenceOf[Moves]) -> None:
        """Books the forks of some groups after a step. A group with no beam left is gone."""
        for moves in all_moves:
            for parent, fork in moves.forks:
                if parent.blocks and self._blocks.fork(parent, fork):
                    self._forked.update((parent, fork))
                else:
                    fork.num_computed = 0
            if not moves.extended and moves.dropped and moves.dropped[0].group is not None:
                self._groups.discard(moves.dropped[0].group)

    def extend(self, all_moves: SequenceOf[Moves]) -> None:
        """Books everyone's next token, when the beams that were dropped are gone."""
        rows = {sequence: row for row, sequence in enumerate(self._running)}
        revived = []
        for sequence, token in chain.from_iterable(moves.extended for moves in all_moves):
            sequence.tokens.append(token)
            row = rows.get(sequence)
            if row is not None:
                self._running.known[row] += 1
                self._running.newest[row] = token
            elif sequence.blocks:
                self._running.append(sequence)
            else:
                revived.append(sequence)
        self._waiting.put_back(revived)

    def forget(self, ended: Iterable[Sequence]) -> None:
        """Forgets ended sequences."""
        self._forked.difference_update(ended)

    def close(self, request: Request) -> None:
        """Forgets the search of a request that is dropped."""
        self._groups = {group for group in self._groups if group.request is not request}

    def check_integrity(self) -> None:
        """Proves that forks are known, and only beams that wait have nothing to compute. For tests."""
        for sequence in self._running:
            idle = sequence.group is not None and sequence.group.waits(sequence)
            assert idle == (sequence.num_computed == len(sequence.tokens))
            assert sequence in self._forked or idle or not self._blocks.shared_and_written(sequence)
        assert self._forked <= {*self._running}
