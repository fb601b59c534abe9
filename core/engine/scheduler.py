"""Which tokens are computed next. Knows lengths and blocks, never tensors or text.

There are no phases: a running sequence has tokens that are not computed yet, one (decode) or many (prefill), and each
step computes up to `max_num_batched_tokens` of them over all sequences. First come, first served; when blocks run
out, the latest running sequence gives its blocks back and is computed again later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from .blocks import BlockManager
from .request import Request, Sequence


@dataclass(slots=True)
class Scheduled:
    """`count` tokens of a sequence, from its first that is not computed."""

    sequence: Sequence
    count: int

    @property
    def samples(self) -> bool:
        """Whether these are the sequence's last tokens, so that the next one is drawn after them."""
        return self.sequence.num_computed + self.count == len(self.sequence.tokens)


@dataclass(slots=True)
class Schedule:
    """One step: block copies to make first, then the tokens to compute."""

    rows: list[Scheduled] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(row.count for row in self.rows)


class Scheduler:
    """
    Args:
        max_num_seqs: most sequences running at a time.
        max_num_batched_tokens: most tokens a step.
        chunked_prefill: whether a prompt may be computed over several steps.
        long_prefill_token_threshold: most tokens of one prompt a step; 0 is no limit.
        watermark: share of the blocks kept free when a sequence is admitted while others run.
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
    ) -> None:
        self.blocks = blocks
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.chunked_prefill = chunked_prefill
        self.long_prefill_token_threshold = long_prefill_token_threshold
        self.reserve = int(watermark * blocks.num_usable)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._siblings: dict[Sequence, list[Sequence]] = {}

    def add(self, choices: list[Sequence]) -> None:
        """Queues a request's choices. The first computes the prompt, then the others join and share its blocks."""
        first, *others = choices
        self.waiting.append(first)
        if others:
            self._siblings[first] = others

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    # -- schedule ------------------------------------------------------------------------------------------------
    def schedule(self) -> Schedule:
        """The next step's tokens; empty only when there is no work."""
        step = Schedule()
        preempted = self._continue_running(step)
        if not preempted:
            self._admit_waiting(step)
        assert step.rows or not self.has_work, "work is left but nothing can be scheduled"
        return step

    def _continue_running(self, step: Schedule) -> bool:
        """Schedules the running sequences, oldest first; returns whether any had to be preempted for it."""
        budget, preempted, i = self.max_num_batched_tokens, False, 0
        while i < len(self.running) and budget > 0:
            sequence = self.running[i]
            count = self._next_tokens(sequence, budget)
            while self.blocks.shortage(sequence, sequence.num_computed + count) > 0:
                victim = self.running.pop()
                self._preempt(victim)
                preempted = True
                if victim is sequence:
                    return True
            step.copies += self.blocks.grow(sequence, sequence.num_computed + count)
            step.rows.append(Scheduled(sequence, count))
            budget -= count
            i += 1
        return preempted

    def _admit_waiting(self, step: Schedule) -> None:
        budget = self.max_num_batched_tokens - step.num_tokens
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            shared, computed = self._reusable(sequence)
            reserve = self.reserve if self.running else 0
            if self.blocks.missing(shared, computed, len(sequence.tokens)) > -reserve:
                break
            count = self._next_tokens(sequence, budget, computed)
            if not self.chunked_prefill and computed + count < len(sequence.tokens):
                break
            self.waiting.popleft()
            self.blocks.share(sequence, shared)
            sequence.num_computed = computed
            if not sequence.num_output:
                sequence.num_cached = computed
            # The whole prompt's blocks at once: a prefill that has begun is not undone by another's.
            step.copies += self.blocks.grow(sequence, len(sequence.tokens))
            self.running.append(sequence)
            step.rows.append(Scheduled(sequence, count))
            budget -= count

    def _next_tokens(self, sequence: Sequence, budget: int, computed: int | None = None) -> int:
        left = len(sequence.tokens) - (sequence.num_computed if computed is None else computed)
        limit = self.long_prefill_token_threshold
        return min(left, budget, limit) if limit else min(left, budget)

    def _reusable(self, sequence: Sequence) -> tuple[list[int], int]:
        """(blocks, tokens computed in them): of the choice that shares the prompt, or of the prefix cache."""
        source = sequence.source
        if source is not None and source.blocks and source.num_computed >= sequence.num_prompt:
            computed = sequence.num_prompt - 1  # the last prompt token is computed again, for its logits
            return source.blocks[: self.blocks.blocks_for(computed)], computed
        found = self.blocks.cached_prefix(sequence)
        return found, len(found) * self.blocks.block_size

    def _preempt(self, sequence: Sequence) -> None:
        self.blocks.free(sequence)
        sequence.num_computed = 0
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1

    # -- commit --------------------------------------------------------------------------------------------------
    def commit(self, step: Schedule, tokens: Iterable[int]) -> list[Sequence]:
        """Books a computed step; `tokens` are the drawn ones, for the rows that sample, in order.

        Returns the sequences that got a token. Whoever decides that one has ended calls `finish`.
        """
        drawn = iter(tokens)
        grown = []
        for row in step.rows:
            sequence, samples, start = row.sequence, row.samples, row.sequence.num_computed
            sequence.num_computed += row.count
            self.blocks.remember(sequence, start)
            if samples:
                sequence.tokens.append(next(drawn))
                grown.append(sequence)
            if sequence in self._siblings and sequence.num_computed >= sequence.num_prompt:
                others = self._siblings.pop(sequence)
                for other in others:
                    other.source = sequence
                self.waiting.extendleft(reversed(others))
        return grown

    def finish(self, sequences: Iterable[Sequence]) -> None:
        """Takes ended sequences out and frees their blocks."""
        ended = set(sequences)
        for sequence in ended:
            self.blocks.free(sequence)
        if ended:
            self.running = [s for s in self.running if s not in ended]

    def abort(self, request: Request) -> None:
        """Drops every choice of a request, wherever it is."""
        for first in [s for s in self._siblings if s.request is request]:
            del self._siblings[first]
        self.waiting = deque(s for s in self.waiting if s.request is not request)
        self.finish([s for s in self.running if s.request is request])

    def check_integrity(self) -> None:
        """Proves that the books balance. For tests."""
        self.blocks.check_integrity(self.running)
        assert len(self.running) <= self.max_num_seqs
        assert not any(s.blocks for s in self.waiting)
        assert not {*self.running} & {*self.waiting}
        for sequence in self.running:
            assert sequence.num_computed <= len(sequence.blocks) * self.blocks.block_size
            assert not sequence.finished
