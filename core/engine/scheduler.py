"""Which tokens are computed next. Knows lengths and blocks, never tensors of a model or text.

There are no phases: a running sequence has tokens that are not computed yet, one (decode) or many (prefill), and each
step computes up to `max_num_batched_tokens` of them over all sequences, the oldest first. When blocks run out, the latest
running sequence gives its blocks back and is computed again later, or its blocks are kept in CPU memory (`SwapSpace`).

With the policy "priority" the lowest `Request.priority` comes first, in starting, in its share of the step and in keeping
its blocks; among equals everything is as above. A running sequence is not preempted because a more urgent one waits, only
when running ones need its blocks (as in vLLM's current scheduler).

The beams of a search hold the blocks of one request and lose them together. One that has nothing to compute until the others of
its group catch up stays where it is with no share of the step; room for the beams that are still to come is kept free. Beams of
one search that are more than a step takes, or than there are blocks for, take turns.

What concerns all sequences is arithmetic on the arrays of `Running`; Python looks at those that need blocks, have filled
one, begin or end.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from collections.abc import Set as AbstractSet
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ..memory.swap import Stored, SwapSpace
from ..types.request import Beams, Request, Sequence
from .beams.group import Moves
from .beams.places import places
from .blocks import BlockManager
from .priorities import PriorityQueues
from .running import Running
from .schedule import Schedule
from .spread import Spread
from .waiting import WaitingQueue


class Scheduler:
    """
    Args:
        max_num_seqs: most sequences in one step, and running at a time, but for the beams of one search that are more.
        max_num_batched_tokens: most tokens a step.
        chunked_prefill: whether a prompt may be computed over several steps.
        long_prefill_token_threshold: most tokens of one prompt a step; 0 is no limit.
        watermark: share of the blocks kept free when a sequence is admitted while others run.
        look_ahead: see `WaitingQueue`.
        policy: "fcfs" or "priority".
        swap: room for preempted sequences in CPU memory. The beams of a search are computed again whether it is there or not.
    """

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        chunked_prefill: bool = True,
        long_prefill_token_threshold: int = 0,
        watermark: float = 0.0,
        look_ahead: int = 4096,
        policy: str = "fcfs",
        swap: SwapSpace | None = None,
    ) -> None:
        self.blocks = blocks
        self.swap = swap
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.chunked_prefill = chunked_prefill
        self.long_prefill_token_threshold = long_prefill_token_threshold
        self.reserve = int(watermark * blocks.num_usable)
        self._by_priority = policy == "priority"
        self.waiting: WaitingQueue | PriorityQueues = PriorityQueues(look_ahead) if self._by_priority else WaitingQueue(look_ahead)
        self.running = Running()
        self.num_preemptions = 0
        self._expects_more = True
        self._siblings: dict[Sequence, list[Sequence]] = {}
        self._num_orders = 0
        self._groups: set[Beams] = set()
        self._forked: set[Sequence] = set()
        """Running sequences whose last block others may hold too, since they were last scheduled."""
        self.in_flight: frozenset[Sequence] = frozenset()
        """Sequences of a step that was begun before the one before it was done: what it writes to is not given away."""
        self.apart: set[Sequence] = set()
        """Sequences that hold blocks and do not run any more: of `in_flight`, or `Promise.leaving`."""
        self._spread = Spread(max_num_seqs)

    def add(self, choices: list[Sequence]) -> None:
        """Queues a request's choices. The first computes the prompt, then the others join and share its blocks."""
        first, *others = choices
        self._num_orders += 1
        for choice in choices:
            choice.order = self._num_orders
        if first.group is not None:
            self._groups.add(first.group)
        self.waiting.add(first)
        if others:
            self._siblings[first] = others

    def expect_more(self, more: bool) -> None:
        """Says whether requests may be added to those that are there, which is supposed until it is said. Without, what is left
        is spread over the steps that its longest output takes anyway."""
        if self._expects_more and not more:
            self.waiting.gather()
            self._spread.forget()
        self._expects_more = more

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    # -- schedule ------------------------------------------------------------------------------------------------
    def schedule(self) -> Schedule:
        """The next step's tokens; empty only when there is no work."""
        copies: list[tuple[int, int]] = []
        admitted: list[Sequence] = []
        if self._groups:
            self._sort()
        counts, preempted = self._continue_running(copies)
        if not preempted:
            before = len(self.running)
            counts = self._admit_waiting(counts, copies)
            admitted = self.running.sequences[before:]
            if admitted and self._by_priority:
                counts = self._sort(counts)
        if self._groups:
            counts = self._put_idle_last(counts)
            if not len(counts) and self.has_work:
                # Beams hold blocks while others of their groups wait for some: those of the latest group give theirs back.
                if len(self.running):
                    self._preempt_group(self.running[-1])
                return self.schedule()
        size = len(counts)
        assert size or self.apart or not self.has_work, "work is left but nothing can be scheduled"
        samples = self.running.computed[:size] + counts == self.running.known[:size]
        made = Schedule(self.running.sequences[:size], counts, samples, copies, admitted)
        if self.swap is not None and size:
            made.swap_out, made.swap_in = self.swap.hand_over()
            made.began = self.swap.costs.clock()
        return made

    def _continue_running(self, copies: list[tuple[int, int]]) -> tuple[NDArray[np.int64], bool]:
        """How many tokens each of the first running sequences computes, and whether others were preempted for them."""
        running, preempted = self.running, False
        counts = self.share_out_budget()
        ends = running.computed[: len(counts)] + counts
        growing = ends > running.num_blocks[: len(counts)] * self.blocks.block_size
        if self._forked:
            growing |= np.array([s in self._forked for s in running.sequences[: len(counts)]], dtype=bool)
        for row in np.flatnonzero(growing & (counts > 0)).tolist():
            while row < len(running) and self.blocks.shortage(running[row], int(ends[row])) > 0:
                preempted = True
                if running[-1].group is None:
                    self._preempt(running.pop())
                    continue
                lost = self._preempt_group(running[-1])
                copies[:] = [(source, target) for source, target in copies if target not in lost]
                again, _ = self._continue_running(copies)
                return again, True
            if row >= len(running):
                break
            copies += self.blocks.grow(running[row], int(ends[row]))
            self._forked.discard(running[row])
            running.refresh_blocks(row, int(running.computed[row]) // self.blocks.block_size)
        return counts[: len(running)], preempted

    def share_out_budget(self) -> NDArray[np.int64]:
        """[S] the tokens that are left of each running sequence, from the oldest on while the budget lasts."""
        size, budget = len(self.running), self.max_num_batched_tokens
        counts = self._limited(self.running.known[:size] - self.running.computed[:size])
        if size > self.max_num_seqs:
            counts[np.flatnonzero(counts)[self.max_num_seqs :]] = 0
        total = np.cumsum(counts)
        if size and total[-1] > budget:
            last = int(np.searchsorted(total, budget))
            counts = counts[: last + 1]
            counts[last] -= total[last] - budget
        return counts

    def _limited(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        limit = self.long_prefill_token_threshold
        return np.minimum(counts, limit) if limit else counts

    def _admit_waiting(self, counts: NDArray[np.int64], copies: list[tuple[int, int]]) -> NDArray[np.int64]:
        """Starts waiting sequences while there is room; returns `counts` and theirs."""
        budget = self.max_num_batched_tokens - int(counts.sum())
        admitted: list[int] = []
        passed: list[Sequence] = []
        most = max((self.max_num_seqs, *(g.width for g in self._groups))) if self._groups else self._most_at_a_time()
        places_left = self.max_num_seqs - int(np.count_nonzero(counts))  # in this step
        has_place = places(self.running, self.max_num_seqs) if self._groups else None
        while self.waiting and budget > 0 and len(self.running) < most and len(passed) < most and len(admitted) < places_left:
            sequence = self.waiting.pop()
            if has_place is not None and not has_place(sequence):
                passed.append(sequence)
                break
            shared, computed = self._reusable(sequence)
            stored = None if self.swap is None else self.swap.find(sequence)
            if stored is not None and stored.num_computed > computed:
                shared, computed = shared[: computed // self.blocks.block_size], stored.num_computed
            elif sequence.reads_prefix_cache and self.blocks.is_announced(sequence, computed):
                passed.append(sequence)  # after the step that computes its prefix it need not be computed again
                continue
            count = min(len(sequence.tokens) - computed, self.long_prefill_token_threshold or budget, budget)
            if not self._has_room(sequence, shared, computed, count):
                passed.append(sequence)
                break
            self.blocks.share(sequence, shared)
            sequence.num_computed = computed
            if not sequence.num_output and stored is None:
                sequence.num_cached = computed
            # The whole prompt's blocks at once: a prefill that has begun is not undone by another's.
            copies += self.blocks.grow(sequence, len(sequence.tokens))
            self.blocks.announce(sequence)
            if stored is not None:
                self._bring_back(sequence, stored, len(shared))
            self.running.append(sequence)
            admitted.append(count)
            budget -= count
        self.waiting.put_back(passed)
        return np.concatenate((counts, np.array(admitted, dtype=np.int64))) if admitted else counts

    def _sort(self, counts: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Puts the running sequences in order of priority, if that counts, and of age; `counts` [S] of all of them become those of
        the new order."""
        rows = range(len(self.running))
        order = sorted(rows, key=lambda row: self._age(self.running[row]))
        if order != [*rows]:
            self.running.reorder(order)
        return counts[order] if counts is not None else np.zeros(0, dtype=np.int64)

    def _age(self, sequence: Sequence) -> tuple[int, int]:
        return sequence.request.priority if self._by_priority else 0, sequence.order

    # -- beams -----------------------------------------------------------------------------------------------------
    def _put_idle_last(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Moves running sequences without a share of the step behind those that have one; the latter's counts."""
        if counts.all():
            return counts
        busy = np.flatnonzero(counts)
        order = [*busy.tolist(), *np.flatnonzero(counts == 0).tolist(), *range(len(counts), len(self.running))]
        self.running.reorder(order)
        return counts[busy]

    def _preempt_group(self, sequence: Sequence) -> set[int]:
        """Takes the blocks of all running beams of a group; returns them. Beams that have nothing to compute are not queued: they
        come back when the others have caught up."""
        members = [s for s in self.running if s.group is sequence.group]
        lost = {block for s in members for block in s.blocks}
        self.running.remove(set(members))
        for member in members:
            self._forked.discard(member)
            self.blocks.free(member)
            member.num_computed = 0
        self.waiting.put_back(s for s in members if s.group is not None and not s.group.waits(s))
        self.num_preemptions += 1
        return lost

    def move_beams(self, all_moves: SequenceOf[Moves]) -> None:
        """Books what became of the beams of some groups after a step: beams that are dropped, forks, and everyone's next token.
        When none is left of a group it is gone."""
        for moves in all_moves:
            for parent, fork in moves.forks:
                if parent.blocks:
                    self.blocks.share(fork, parent.blocks)
                    fork.num_computed = parent.num_computed
                    self._forked.update((parent, fork))
            if not moves.extended and moves.dropped and moves.dropped[0].group is not None:
                self._groups.discard(moves.dropped[0].group)
        self.finish(chain.from_iterable(moves.dropped for moves in all_moves))
        rows = {sequence: row for row, sequence in enumerate(self.running)}
        revived = []
        for sequence, token in chain.from_iterable(moves.extended for moves in all_moves):
            sequence.tokens.append(token)
            row = rows.get(sequence)
            if row is not None:
                self.running.known[row] += 1
                self.running.newest[row] = token
            elif sequence.blocks:
                self.running.append(sequence)
            else:
                revived.append(sequence)
        self.waiting.put_back(revived)

    def _most_at_a_time(self) -> int:
        """As many sequences as may run, or as keep all steps up to the last equally full, see `Spread`."""
        if self._expects_more or not self.waiting:
            return self.max_num_seqs
        left = chain(self.running, self.waiting, chain.from_iterable(self._siblings.values()))
        return self._spread.width(len(self.waiting) + len(self.running), left)

    def _has_room(self, sequence: Sequence, shared: list[int], computed: int, count: int) -> bool:
        """Whether a sequence can start with `count` tokens after those that are computed."""
        whole = len(sequence.tokens)
        if not self.chunked_prefill and computed + count < whole:
            return False
        reserve = self.reserve if len(self.running) else 0
        return self.blocks.missing(shared, computed, whole) <= -reserve

    def _reusable(self, sequence: Sequence) -> tuple[list[int], int]:
        """(blocks, tokens computed in them): of the choice that shares the prompt, or of the prefix cache."""
        source = sequence.source
        if source is not None and source.blocks and source.num_computed >= sequence.num_prompt:
            computed = sequence.num_prompt - 1  # the last prompt token is computed again, for its logits
            return source.blocks[: self.blocks.blocks_for(computed)], computed
        found = self.blocks.cached_prefix(sequence) if sequence.reads_prefix_cache else []
        return found, len(found) * self.blocks.block_size

    def _preempt(self, sequence: Sequence) -> None:
        if self.swap is not None and self.swap.suits(sequence, self.blocks.num_kept(sequence)):
            self.swap.take_out(sequence)
        self.blocks.free(sequence)
        sequence.num_computed = 0
        self.waiting.put_back([sequence])
        self.num_preemptions += 1

    def _bring_back(self, sequence: Sequence, stored: Stored, num_shared: int) -> None:
        """Gives a sequence that has its blocks what it had in them, if that is more than the first `num_shared` hold."""
        assert self.swap is not None
        if stored.num_computed == sequence.num_computed:
            self.swap.bring_back(sequence, num_shared)
            self.blocks.remember(sequence, 0)
        else:
            self.swap.drop(sequence)

    # -- commit --------------------------------------------------------------------------------------------------
    def commit(self, step: Schedule, tokens: SequenceOf[int], drawn: SequenceOf[int] | None = None) -> None:
        """Books a computed step; `tokens` are the drawn ones, for the sequences that sample, in order.

        Args:
            drawn: which of these `tokens` are for, where there are beams too, whose tokens `move_beams` books.

        Whoever decides that a sequence has ended calls `finish`.
        """
        filled = self.advance(step)
        rows = np.flatnonzero(step.samples)
        self.running.extend(rows if drawn is None else rows[list(drawn)], tokens)
        self.join(step)
        self.succeeded(step, filled)

    def advance(self, step: Schedule) -> list[tuple[Sequence, int]]:
        """Counts a step's tokens as computed; the sequences that filled blocks with that, and what they had computed before."""
        running, size, block_size = self.running, len(step.counts), self.blocks.block_size
        before = running.computed[:size].copy()
        running.advance(step.counts)
        rows = np.flatnonzero(before // block_size != running.computed[:size] // block_size)
        return [(running[row], int(before[row])) for row in rows.tolist()]

    def succeeded(self, step: Schedule, filled: Iterable[tuple[Sequence, int]]) -> None:
        """A step is done: what `advance` said it filled is findable from now on."""
        for sequence, before in filled:
            self.blocks.remember(sequence, before)
        if self.swap is not None:
            self.swap.costs.computed(int(step.counts.sum()), step.began)

    def join(self, step: Schedule) -> None:
        """Sends the other choices of prompts that are computed after the first."""
        if not self._siblings:
            return
        for first in [s for s in step.sequences if s in self._siblings and s.num_computed >= s.num_prompt]:
            others = self._siblings.pop(first)
            for other in others:
                other.source = first
            self.waiting.put_back(others)

    def finish(self, sequences: Iterable[Sequence]) -> None:
        """Takes ended sequences out and frees their blocks; those of a step in flight keep them until `free_apart`."""
        ended = set(sequences)
        for sequence in ended:
            self._forked.discard(sequence)
            if self.swap is not None:
                self.swap.drop(sequence)
        self.set_apart(ended & self.in_flight)
        self._free(ended - self.in_flight)

    def set_apart(self, sequences: AbstractSet[Sequence]) -> None:
        """Takes sequences out that keep their blocks for now."""
        self.apart |= sequences
        if sequences:
            self.running.remove(sequences)

    def free_apart(self, but: AbstractSet[Sequence] = frozenset()) -> None:
        """Frees the blocks of those set apart, `but` some."""
        if self.apart:
            self._free(self.apart - but)

    def _free(self, sequences: AbstractSet[Sequence]) -> None:
        for sequence in sequences:
            self.blocks.free(sequence)
        self.apart -= sequences
        if sequences:
            self.running.remove(sequences)

    def abort(self, request: Request) -> None:
        """Drops every choice of a request, wherever it is."""
        for first in [s for s in self._siblings if s.request is request]:
            del self._siblings[first]
        self.waiting.remove(request)
        if self.swap is not None:
            self.swap.drop_request(request)
        self._groups = {group for group in self._groups if group.request is not request}
        self.finish([s for s in chain(self.running, self.apart) if s.request is request])

    def check_integrity(self) -> None:
        """Proves that the books balance. For tests."""
        self.blocks.check_integrity([*self.running, *self.apart])
        self.running.check_integrity()
        assert self.apart <= self.in_flight
        assert not self.apart & {*self.running}
        waiting = set(self.waiting)
        assert len(waiting) == len(self.waiting)
        assert not any(s.blocks or s.num_computed for s in waiting)
        assert not {*self.running} & waiting
        if self.swap is not None:
            self.swap.check_integrity(waiting)
        for sequence in self.running:
            idle = sequence.group is not None and sequence.group.waits(sequence)
            assert sequence.num_computed == len(sequence.tokens) if idle else sequence.num_computed < len(sequence.tokens)
            assert sequence.num_computed <= len(sequence.blocks) * self.blocks.block_size
            assert not sequence.finished
            assert sequence in self._forked or idle or not self.blocks.shared_and_written(sequence)
        assert self._forked <= {*self.running}
