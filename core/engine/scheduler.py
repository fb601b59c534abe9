"""Scheduler: decides which tokens are computed next.

Knows lengths and blocks, never tensors of a model or text.

There are no phases: a running sequence has tokens that are not computed yet, one (decode) or many (prefill), and each
step computes up to `max_num_batched_tokens` of them over all sequences, the oldest first. When blocks run out, the latest
running sequence gives its blocks back and is computed again later.

With the policy "priority" the lowest `Request.priority` comes first, in starting, in its share of the step and in keeping
its blocks; among equals everything is as above. A running sequence is not preempted because a more urgent one waits, only
when running ones need its blocks (as in vLLM's current scheduler).

Several batches may be computed at a time, each of a lane: `beside` makes another scheduler that shares all books with this one and has
running sequences of its own. A call changes only the sequences of its own lane. The caller makes sure that calls follow one another,
whichever lanes they are for (lanes/crew.py). At rest between two steps a lane starts waiting
sequences up to its share, and gives some that run to lanes that have fewer.

What a step has computed and drawn is booked by `Progress` (progress.py).

There only where they are used: `BeamTurns` (beams/turns.py) for beam searches, `Holds` (scoring/holds.py) for given continuations,
`SwapSpace` (memory/swap.py) for the blocks of preempted sequences in CPU memory, `Overruns` (overruns.py) for steps that overlap.

What concerns all sequences is arithmetic on the arrays of `Running`; Python looks at those that need blocks, have filled
one, begin or end.

One class: what it decides in a step shares the same books, so the file is as long as that class.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from copy import copy
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..adapters.books import AdapterBooks
from ..memory.swap import SwapSpace
from ..types.request import Request, Sequence
from .beams.turns import BeamTurns
from .blocks import BlockManager
from .lanes.shares import Shares
from .overruns import Overruns
from .progress import Progress
from .queues.priorities import PriorityQueues
from .queues.waiting import WaitingQueue
from .running import Running
from .schedule import Schedule
from .scoring.holds import Holds
from .spread import Spread

#: The share of the places that is free when sequences are admitted together.
_TOGETHER = 1 / 16


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
        overlaps: whether a step may be begun before the one before it is done.
        adapters: the books of LoRA adapters, if sequences may have some.
        admits_together: whether waiting sequences are kept until a share of the places is free (`_TOGETHER`), so that more steps are of
            decodes alone. Where priorities decide, nobody is kept.
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
        overlaps: bool = False,
        adapters: AdapterBooks | None = None,
        admits_together: bool = False,
    ) -> None:
        self.blocks = blocks
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.chunked_prefill = chunked_prefill
        self.long_prefill_token_threshold = long_prefill_token_threshold
        self.reserve = int(watermark * blocks.num_usable)
        self._by_priority = policy == "priority"
        self.waiting: WaitingQueue | PriorityQueues = PriorityQueues(look_ahead) if self._by_priority else WaitingQueue(look_ahead)
        self.running = Running()
        self.lanes: list[Scheduler] = [self]
        """Those that share this one's books, itself among them, the same list in each."""
        self.shares = Shares()
        self._was_given = False
        self.num_preemptions = 0
        self._num_orders = 0
        self._siblings: dict[Sequence, list[Sequence]] = {}
        """The other choices of a request, by the first: they wait until it has computed the prompt."""
        self._holds = Holds(blocks)
        self._spread = Spread(max_num_seqs)
        self.swap, self.adapters = swap, adapters
        self.progress = Progress(self.running, blocks, swap)
        self._admits_together = admits_together and not self._by_priority
        self.overruns = Overruns(self.running, blocks) if overlaps else None
        self.beams: BeamTurns | None = None
        """Made when the first search is added."""

    def add(self, choices: list[Sequence]) -> None:
        """Queues a request's choices. The first computes the prompt, then the others join and share its blocks."""
        first, *others = choices
        self._num_orders += 1
        if first.request.spans is not None:  # a step takes a span as a whole
            self.shares.batches = 0
        for choice in choices:
            choice.order = self._num_orders
        if first.group is not None:
            self.beams = self.beams or BeamTurns(self.running, self.blocks, self.waiting, self.max_num_seqs)
            self.beams.open(first.group)
        self.waiting.add(first)
        if others:
            self._siblings[first] = others

    def expect_more(self, more: bool) -> None:
        """Says whether requests may be added to those that are there, which is supposed until it is said. Without, what is left
        is spread over the steps that its longest output takes anyway."""
        if self._spread.expects_more and not more:
            self.waiting.gather()
        self._spread.expect_more(more)

    def beside(self) -> Scheduler:
        """Another lane."""
        assert self.beams is None
        lane = copy(self)
        lane.running, lane.num_preemptions = Running(), 0
        lane.progress = Progress(lane.running, self.blocks, self.swap)
        lane.overruns = Overruns(lane.running, self.blocks)
        if self.overruns is None:
            self.overruns = Overruns(self.running, self.blocks)
        self.lanes.append(lane)
        return lane

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or any(lane.running for lane in self.lanes))

    @property
    def num_running(self) -> int:
        """Sequences that run, in all lanes."""
        return sum(len(lane.running) for lane in self.lanes)

    def _all_running(self) -> list[Sequence]:
        return [sequence for lane in self.lanes for sequence in lane.running]

    # -- schedule ------------------------------------------------------------------------------------------------
    def schedule(self, counts: NDArray[np.int64] | None = None) -> Schedule:
        """The next step's tokens; empty only when there is no work.

        Args:
            counts: what `share_out_budget` gives, if that is known; only where nothing comes between.
        """
        copies: list[tuple[int, int]] = []
        admitted: list[Sequence] = []
        if len(self.lanes) > 1:
            self._level()
        if self.beams or self._was_given:
            self.running.sort(self._age)
            self._was_given = False
        counts, preempted = self._continue_running(self.share_out_budget() if counts is None else counts, copies)
        if not preempted:
            before = len(self.running)
            counts = self._admit_waiting(counts, copies)
            admitted = self.running.sequences[before:]
            if admitted and self._by_priority:
                counts = counts[self.running.sort(self._age)]
        if self.beams:
            counts = self.beams.put_idle_last(counts)
            if not len(counts) and self.has_work:
                # Beams hold blocks while others of their groups wait for some: those of the latest group give theirs back.
                if len(self.running):
                    self._preempt_last(copies)
                return self.schedule()
        size = len(counts)
        assert size or self._may_wait(), "work is left but nothing can be scheduled"
        samples = self.running.computed[:size] + counts == self.running.known[:size]
        made = Schedule(self.running.sequences[:size], counts, samples, copies, admitted, self.running.traits[:size].copy())
        if self.swap is not None and size:
            made.swap_out, made.swap_in = self.swap.hand_over()
            made.began = self.swap.costs.clock()
        if self.blocks.states is not None and size:
            made.state_copies = self.blocks.states.hand_over()
        return made

    def _may_wait(self) -> bool:
        """True if this lane has nothing to do until another gives it something or frees blocks, or if all is done."""
        if not self.has_work or self.lanes.index(self) >= self.shares.active:
            return True
        return len(self.holders()) > len(self.running) or any(lane.holders() for lane in self.lanes if lane is not self)

    def _level(self) -> None:
        """Gives running sequences to lanes that have fewer, the youngest first: all of them if this lane is not used."""
        used, own = self.lanes[: self.shares.active], self.running
        fair = -(-self.num_running // len(used)) if self in used else 0
        if self in used and (self.waiting or len(own) <= fair + self.shares.slack(fair)):
            return
        while len(own) > fair:
            lane = min(used, key=lambda lane: len(lane.running))
            lane.running.append(own.pop())
            lane._was_given = True

    def _continue_running(self, counts: NDArray[np.int64], copies: list[tuple[int, int]]) -> tuple[NDArray[np.int64], bool]:
        """The number of tokens that each of the first running sequences computes, of `counts` that it may, and True if others were
        preempted for them."""
        running, preempted = self.running, False
        ends = running.computed[: len(counts)] + counts
        growing = ends > running.num_blocks[: len(counts)] * self.blocks.block_size
        if self.beams:
            growing |= self.beams.are_forked(len(counts))
        (rows,) = (growing & (counts > 0)).nonzero()
        if not len(rows) or (not self.beams and running.grow_by_one(rows, ends[rows], self.blocks)):
            return counts, False
        for row in rows.tolist():
            while row < len(running) and self.blocks.shortage(running[row], int(ends[row])) > 0:
                if self._holds and self._holds.give_up():
                    continue
                preempted = True
                if self._preempt_last(copies):
                    return self._continue_running(self.share_out_budget(), copies)[0], True
            if row >= len(running):
                break
            copies += self.blocks.grow(running[row], int(ends[row]))
            if self.beams:
                self.beams.has_grown(running[row])
            running.refresh_blocks(row, int(running.computed[row]) // self.blocks.block_size)
        return counts[: len(running)], preempted

    def share_out_budget(self) -> NDArray[np.int64]:
        """[S] how many tokens the first running sequences may compute in a step."""
        most, limit = self._most_tokens(), self.long_prefill_token_threshold
        if most < self.max_num_batched_tokens:  # a prompt leaves those behind it their next tokens
            limit = min(limit or most, most - len(self.running))
        return self.running.share_out(most, self.max_num_seqs, limit)

    def _most_tokens(self) -> int:
        """Tokens of the next step at most: see `Shares.tokens`."""
        if not self.shares.batches or self.shares.active == 1 or not self.chunked_prefill:
            return self.max_num_batched_tokens
        starting = islice(self.waiting, max(0, self._width() - self.num_running))
        left = sum(lane.running.num_left for lane in self.lanes) - self.num_running + sum(len(sequence.tokens) for sequence in starting)
        return min(self.max_num_batched_tokens, self.shares.tokens(len(self.running), left))

    def _width(self) -> int:
        return self._spread.width(self._all_running(), self.waiting, self._siblings)

    def lend(self, row: int, count: int, copies: list[tuple[int, int]]) -> int:
        """Gives a running sequence that computes its newest token room for at most `count` more, as far as free blocks go; returns for
        how many. Nobody is preempted for it."""
        sequence, blocks = self.running[row], self.blocks
        size = len(sequence.tokens)
        while count > 0 and blocks.shortage(sequence, size + count) > 0:
            count -= 1
        if count > 0 and size + count > len(sequence.blocks) * blocks.block_size:
            copies += blocks.grow(sequence, size + count)
            self.running.refresh_blocks(row, sequence.num_computed // blocks.block_size)
        return max(count, 0)

    def _preempt_last(self, copies: list[tuple[int, int]]) -> bool:
        """Takes the blocks of the last running sequence, or of its whole group of beams, whose `copies` are not made then; whether
        it was a beam, so that others have moved up."""
        self.num_preemptions += 1
        sequence = self.running[-1]
        if sequence.group is not None:
            assert self.beams is not None
            lost = self.beams.preempt(sequence)
            copies[:] = [(source, target) for source, target in copies if target not in lost]
            return True
        self.running.pop()
        if self.swap is not None and self.swap.suits(sequence, self.blocks.num_kept(sequence)):
            self.swap.take_out(sequence)
        self.blocks.free(sequence)
        sequence.num_computed = 0
        self.waiting.put_back([sequence])
        return False

    def _admit_waiting(self, counts: NDArray[np.int64], copies: list[tuple[int, int]]) -> NDArray[np.int64]:
        """Starts waiting sequences while there is room; returns `counts` and theirs."""
        # The budget is used up, or what is left of it is too little for a span; or nobody is there, or no place.
        if len(counts) < len(self.running) or not self.waiting or (not self.beams and len(self.running) >= self.max_num_seqs):
            return counts
        budget = self._most_tokens() - int(counts.sum())
        admitted: list[int] = []
        passed: list[Sequence] = []
        places_left = self.max_num_seqs - int(np.count_nonzero(counts))  # in this step
        if self.beams:
            most, has_place = self.beams.most_at_a_time, self.beams.places()
        else:
            most, has_place = self._width(), None
        if self._admits_together and counts.max(initial=0) == 1 and most - self.num_running < most * _TOGETHER:
            return counts
        if len(self.lanes) > 1:
            left, share = most - self.num_running, self.shares.most(self.lanes.index(self), most, self.num_running + len(self.waiting))
            most = min(share, len(self.running) + left)
        if self.adapters is not None:
            self.adapters.begin(self._all_running())
        while self.waiting and budget > 0 and len(self.running) < most and len(passed) < most and len(admitted) < places_left:
            sequence = self.waiting.pop()
            if has_place is not None and not has_place(sequence):
                passed.append(sequence)
                break
            if self.adapters is not None and not self.adapters.admit(sequence):
                if sequence not in self.adapters.refused:
                    passed.append(sequence)
                continue
            shared, computed = self.blocks.reusable(sequence)
            stored = None if self.swap is None else self.swap.find(sequence)
            if stored is not None and stored.num_computed > computed:
                shared, computed = shared[: computed // self.blocks.block_size], stored.num_computed
            elif self.blocks.is_announced(sequence, computed):
                passed.append(sequence)  # after the step that computes its prefix it need not be computed again
                continue
            whole, reserve = len(sequence.tokens), self.reserve if self.num_running else 0
            least = sequence.num_encoder + 1 - computed  # an encoder reads its input as a whole
            count = min(
                whole - computed, max(self.long_prefill_token_threshold, least) if self.long_prefill_token_threshold else budget, budget
            )
            if (spans := sequence.request.spans) is not None:
                count = spans.count(computed, count, budget)
            is_cut = not count or computed + count < (whole if not self.chunked_prefill else sequence.num_encoder + 1)
            short = self.blocks.missing(shared, computed, whole) > -reserve
            if short and self._holds and self._holds.give_up():
                self.waiting.put_back([sequence])  # what it may start from is another now
                continue
            if short or is_cut:
                passed.append(sequence)
                break
            self.blocks.share(sequence, shared)
            if self._holds:
                self._holds.started(sequence)
            sequence.num_computed = computed
            if not sequence.num_output and stored is None:
                sequence.num_cached = computed
            # The whole prompt's blocks at once: a prefill that has begun is not undone by another's.
            copies += self.blocks.grow(sequence, whole)
            if self.blocks.states is None:
                self.blocks.announce(sequence)
            elif self.chunked_prefill:
                self.blocks.plan_snapshots(sequence, next(iter(self.waiting), None))
                if sequence.borders:
                    count = min(count, sequence.borders[0] - computed)
            if self.swap is not None and self.swap.bring_back(sequence, len(shared)):
                self.blocks.remember(sequence, 0)
            self.running.append(sequence)
            admitted.append(count)
            budget -= count
        self.waiting.put_back(passed)
        return np.concatenate((counts, np.array(admitted, dtype=np.int64))) if admitted else counts

    def _age(self, sequence: Sequence) -> tuple[int, int]:
        return sequence.request.priority if self._by_priority else 0, sequence.order

    # -- commit --------------------------------------------------------------------------------------------------
    def commit(self, step: Schedule, tokens: ArrayLike, drawn: SequenceOf[int] | None = None) -> list[Sequence]:
        """Books a computed step; `tokens` are the drawn ones, for the sequences that sample, in order. Returns those of them that
        are as long as they may be.

        Args:
            drawn: which of these `tokens` are for, where there are beams too, whose tokens `BeamTurns` books.

        Whoever decides that a sequence has ended calls `finish`.
        """
        filled = self.progress.advance(step)
        (rows,) = step.samples.nonzero()
        full = self.running.extend(rows if drawn is None else rows[list(drawn)], np.asarray(tokens, dtype=np.int64))
        self.join(step)
        self.progress.succeeded(step, filled)
        return full

    def join(self, step: Schedule) -> None:
        """Sends the other choices of prompts that are computed after the first."""
        for first in [s for s in step.sequences if s in self._siblings and s.num_computed >= s.num_prompt] if self._siblings else ():
            others = self._siblings.pop(first)
            # Where the first ends with its prompt, its blocks are kept for the others; states have snapshots for that.
            hold = first.request.continuations is not None and self.blocks.states is None
            source = self._holds.take(first, others) if hold else first
            for other in others:
                other.source = source
            self.waiting.put_back(others)

    def finish(self, sequences: Iterable[Sequence]) -> None:
        """Takes ended sequences out and frees their blocks; those of a step in flight keep them, see `Overruns`."""
        ended = set(sequences)
        if self.swap is not None:
            for sequence in ended:
                self.swap.drop(sequence)
        if self.beams is not None:
            self.beams.forget(ended)
        if self.overruns is not None:
            ended = self.overruns.keep(ended)
        for sequence in ended:
            self.blocks.free(sequence)
        if ended:
            self.running.remove(ended)

    def abort(self, request: Request) -> None:
        """Drops every choice of a request, wherever it is."""
        for first in [first for first in self._siblings if first.request is request]:
            del self._siblings[first]
        self.waiting.remove(request)
        if self.swap is not None:
            self.swap.drop_request(request)
        if self.beams is not None:
            self.beams.close(request)
        self._holds.drop(request)
        for lane in self.lanes:
            lane.finish([s for s in lane.holders() if s.request is request])

    def holders(self) -> list[Sequence]:
        """All sequences of this lane that hold blocks."""
        return [*self.running, *(self.overruns.apart if self.overruns is not None else ())]

    def check_integrity(self) -> None:
        """Proves that the books of all lanes balance. For tests."""
        running = self._all_running()
        self.blocks.check_integrity([*(s for lane in self.lanes for s in lane.holders()), *self._holds])
        waiting = set(self.waiting)
        assert len({*self.waiting, *running}) == len(self.waiting) + len(running)
        assert not any(s.blocks or s.num_computed for s in waiting)
        for sequence in running:
            assert sequence.num_computed < len(sequence.tokens) or sequence.group is not None
            assert sequence.num_computed <= len(sequence.blocks) * self.blocks.block_size
            assert not sequence.finished
            assert self.beams is not None or not self.blocks.shared_and_written(sequence)
        if self.swap is not None:
            self.swap.check_integrity(waiting)
        if self.adapters is not None:
            self.adapters.check_integrity(running)
        if self.beams is not None:
            self.beams.check_integrity()
        for lane in self.lanes:
            lane.running.check_integrity()
            if lane.overruns is not None:
                lane.overruns.check_integrity()
