"""Rounds: the draws of a step behind its first ones, each where a draft came true.

A round is drawn when the one before it is booked, for penalties, grammars, budgets and whatever else a draw depends on then stand
where they would without drafts. It costs a draw for a few rows, and every one gives a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from ...sampling.sampler import Draws, Sampler
from ...types.request import Sequence
from ..overlap import Step


@dataclass(slots=True)
class Round:
    rows: list[int]
    """Of the schedule."""
    drawing: list[Sequence]
    """Their sequences."""
    draws: Draws


def rounds(step: Step, sampler: Sampler, failed: Mapping[Sequence, object]) -> Iterator[Round]:
    """The further rounds of a step whose first is booked; each is to be booked before the next is asked for.

    Args:
        failed: sequences that draw no more, beside those that are finished.
    """
    if step.draft_logits is None:
        return
    drafts = step.drafts
    going = [(row, sequence) for row, sequence in enumerate(step.schedule.sequences) if sequence in drafts]
    for number in count():
        going = [(row, s) for row, s in going if s.finish_reason is None and s not in failed and _came_true(drafts[s][1], number, s)]
        if not going:
            return
        drawing = [sequence for _, sequence in going]
        logits = step.draft_logits[[drafts[sequence][0] + number for sequence in drawing]]
        yield Round([row for row, _ in going], drawing, sampler.begin(logits, drawing, again=True))


def _came_true(draft: list[int], number: int, sequence: Sequence) -> bool:
    return number < len(draft) and sequence.tokens[-1] == draft[number]
