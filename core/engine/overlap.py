"""Overlapping steps: the next one is begun while the device computes this one.

    device   | step 1 ........ | step 2 ........ | step 3 ........
    host     | begin 2 | finish 1  | begin 3 | finish 2  | ...

To begin is to schedule a step and to give it to the device; to finish is to wait for its tokens, to book them and to see who is
done. So what ends is known one step late: a sequence that ended has one more token computed, the overrun, which is dropped, and
its blocks are kept until the step that writes there is done. One whose length ends it is known before, and has none.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import RecordError
from ..sampling.row_settings import BAD_WORDS, CHANGES, PROCESSORS, STRUCTURED, THINKING
from ..sampling.sampler import Draws, Sampler
from ..settings.config import EngineConfig
from ..types.request import Sequence
from .promise import Promise, without
from .running import SCORED
from .schedule import Schedule


@dataclass(slots=True, eq=False)
class Step:
    """A step that was begun and is not finished."""

    schedule: Schedule
    draws: Draws
    drawing: list[Sequence]
    """The sequences that want a token of `draws`, in its order."""
    rows: NDArray[np.intp]
    """Their rows of `draws`: all until some are dropped."""
    traits: NDArray[np.uint16]
    """Theirs; see running.py."""
    broken: dict[Sequence, RecordError]
    """Sequences whose prompt's logits were no numbers."""
    plain: list[int] | None = None
    """The places among the sequences that sample of those that are no beams; None where there are no beams."""
    beams: list[Sequence] = field(default_factory=list)
    beam_logits: Tensor | None = None
    """[beams, vocabulary]"""
    drafts: dict[Sequence, tuple[int, list[int]]] = field(default_factory=dict)
    """Of the sequences that carry some: the row of the first in `draft_logits`, and the tokens."""
    draft_logits: Tensor | None = None
    """[drafts, vocabulary]"""
    promise: Promise | None = None
    """Set when the next step was scheduled, or could have been."""

    @classmethod
    def begin(
        cls, schedule: Schedule, sampler: Sampler, logits: Tensor, broken: dict[Sequence, RecordError], *, has_beams: bool, ahead: bool
    ) -> Step:
        """Begins to draw from logits [R, vocabulary] of the sequences that sample; those of beams and drafts are left as they are.

        Args:
            has_beams: whether there may be beams among them.
            ahead: see `Sampler.begin`.
        """
        everyone, traits, draft_logits = schedule.drawing, schedule.traits, None
        if not schedule.all_sample:
            traits = traits[schedule.samples]
        if schedule.drafts:
            logits, draft_logits = logits[: len(everyone)], logits[len(everyone) :]
        beams = [row for row, s in enumerate(everyone) if s.group is not None] if has_beams else []
        if not beams:
            step = cls(schedule, sampler.begin(logits, everyone, ahead=ahead), everyone, np.arange(len(everyone)), traits, broken)
        else:
            plain = [row for row, s in enumerate(everyone) if s.group is None]
            drawing = [everyone[row] for row in plain]
            step = cls(schedule, sampler.begin(logits[plain], drawing), drawing, np.arange(len(plain)), traits[plain], broken, plain)
            step.beams, step.beam_logits = [everyone[row] for row in beams], logits[beams] if plain else logits
        if schedule.drafts:
            step.draft_logits, first = draft_logits, 0
            for row, tokens in schedule.drafts.items():
                step.drafts[schedule.sequences[row]] = first, tokens
                first += len(tokens)
        return step

    @property
    def num_drafts(self) -> int:
        """Tokens that it computes because they may come next."""
        return sum(len(tokens) for _, tokens in self.drafts.values())

    @property
    def num_drawn(self) -> int:
        """Tokens that it gives to outputs; overruns are not among them, nor what is drawn after given continuations."""
        return len(self.drawing) + len(self.beams) - int(np.count_nonzero(self.traits & SCORED))

    def drop(self, gone: Collection[Sequence]) -> None:
        """Leaves sequences out that ended since it was begun."""
        if not gone:
            return
        self.schedule = without(self.schedule, gone)
        left = [place for place, sequence in enumerate(self.drawing) if sequence not in gone]
        self.drawing, self.rows, self.traits = [self.drawing[place] for place in left], self.rows[left], self.traits[left]
        self.broken = {sequence: error for sequence, error in self.broken.items() if sequence not in gone}


def wanted(config: EngineConfig) -> bool:
    """True if steps are to overlap.

    A CPU computes in the thread that calls, so there is nothing beside it; and drafts come after tokens that are known.
    """
    if config.pipeline_parallel_size > 1:  # other batches are beside it already
        return False
    return config.device != "cpu" and not config.disable_async_output_proc and config.speculation == "off"


def may_go_ahead(step: Step) -> bool:
    """True if the next step can be begun before the host has seen the tokens of this one.

    Not where it works on them before the sequence's next draw: structured output, budgets of thinking, bad words, logits processors,
    penalties for tokens that the output has, and beams. Log-probabilities, stop strings, `min_tokens`, `allowed_token_ids` and biases do
    not need that; nor do prompts, whose tokens are known.
    """
    draws = step.draws
    if step.beams or draws.asked & (BAD_WORDS | STRUCTURED | PROCESSORS | THINKING):
        return False
    if not draws.asked & CHANGES:
        return True
    return not any(_counts_output(draws.sequences[row]) for row in np.flatnonzero(draws.needs & CHANGES).tolist())


def _counts_output(sequence: Sequence) -> bool:
    params = sequence.request.params
    return params.repetition_penalty != 1 or bool(params.frequency_penalty or params.presence_penalty)
