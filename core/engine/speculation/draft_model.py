"""Drafts by a smaller model with a KV cache of its own.

It draws as the sequences themselves do: by their parameters, from its own logits, with the noise of their positions, which agrees with
the larger model more often than its likeliest tokens would. What it computed of drafts that did not come true is computed again.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...sampling.sampler import Sampler
from ...types.request import Sequence
from ..batch import pack
from ..blocks import BlockManager
from ..runner import Runner
from ..running import Running
from ..schedule import Schedule
from .drafter import Draft


class DraftModel:
    """
    Args:
        runner: of the smaller model.
        num_blocks: usable blocks of its KV cache.
        sampler: of its operations, over the same tokens.
        max_model_len: tokens that it can read.
        max_num_batched_tokens: of one of its steps.
    """

    def __init__(self, runner: Runner, num_blocks: int, sampler: Sampler, *, max_model_len: int, max_num_batched_tokens: int) -> None:
        self._runner = runner
        self._blocks = BlockManager(num_blocks + 1, runner.block_size, prefix_caching=False)
        self._sampler = sampler
        self._max_model_len = max_model_len
        self._budget = max_num_batched_tokens
        self._twins: dict[Sequence, Sequence] = {}
        """A sequence -> what was last made of it here, with the drafts behind it."""

    def draft(self, wanted: list[tuple[Sequence, int]]) -> list[Draft]:
        """See `Drafter`."""
        asked = {sequence for sequence, _ in wanted}
        running, most_of = Running(), dict[Sequence, int]()
        for sequence, most in wanted:
            number = min(most, self._max_model_len - len(sequence.tokens))
            if number > 0 and _can_be_drafted(sequence) and (twin := self._twin(sequence, number, asked)) is not None:
                running.append(twin)
                most_of[twin] = len(twin.tokens) + number
        while len(running):
            self._step(running, most_of)
        return [self._drafted(sequence) if sequence in self._twins else Draft() for sequence, _ in wanted]

    def keep(self, sequences: Iterable[Sequence]) -> None:
        """See `Drafter`."""
        for sequence in self._twins.keys() - set(sequences):
            self._blocks.free(self._twins.pop(sequence))

    def check_integrity(self) -> None:
        """Proves that the books balance. For tests."""
        self._blocks.check_integrity(self._twins.values())

    def _twin(self, sequence: Sequence, number: int, asked: set[Sequence]) -> Sequence | None:
        """A sequence of the same tokens, with what is computed of them, and blocks for so many more; None if there are too few."""
        twin, before = sequence.fork(), self._twins.pop(sequence, None)
        twin.num_computed, twin.slot, twin.logprobs = 0, 0, None
        if before is not None:
            twin.blocks, before.blocks = before.blocks, []
            shared = min(before.num_computed, len(twin.tokens) - 1)
            while before.tokens[:shared] != twin.tokens[:shared]:  # the end of them is drafts
                shared -= 1
            twin.num_computed = shared
        size = len(twin.tokens) + number - 1  # the last is drawn and not computed
        while self._blocks.shortage(twin, size) > 0:
            idle = next((other for other in self._twins if other not in asked), None)
            if idle is None:
                self._blocks.free(twin)
                return None
            self._blocks.free(self._twins.pop(idle))
        self._blocks.grow(twin, size)
        self._twins[sequence] = twin
        return twin

    def _step(self, running: Running, most_of: dict[Sequence, int]) -> None:
        counts = running.share_out(self._budget, len(running), 0)
        size = len(counts)
        samples = running.computed[:size] + counts == running.known[:size]
        step = Schedule(running.sequences[:size], counts, samples, [], [], running.traits[:size])
        logits = self._runner.run(pack(step, running, self._blocks.block_size))
        drawing = step.drawing
        drawn = self._sampler.sample(logits, drawing)
        running.advance(counts, self._blocks.block_size)
        running.extend(np.flatnonzero(samples), drawn.ids)
        done = set()
        for row, (twin, token) in enumerate(zip(drawing, drawn.tokens, strict=True)):
            if row in drawn.failed or (twin.grammar is not None and not twin.grammar.accept(token)):
                twin.tokens.pop()
                done.add(twin)
            elif len(twin.tokens) >= most_of[twin] or token in twin.end_ids or (twin.grammar is not None and twin.grammar.finished):
                done.add(twin)
        if done:
            running.remove(done)

    def _drafted(self, sequence: Sequence) -> Draft:
        return Draft(self._twins[sequence].tokens[len(sequence.tokens) :])


def _can_be_drafted(sequence: Sequence) -> bool:
    """Not where a draw would move on what is not the draft's: a record's own functions, budgets of thinking; nor where there are
    embeddings in place of tokens."""
    return not sequence.request.num_given and sequence.thinking is None and not sequence.params.logits_processors
