"""The log-probabilities of prompts' own tokens, collected while the prompts are computed.

    position        0     1     2     3  ...  P - 1
    logits at       ->1   ->2   ->3   ->4     -> the first output token
    entry           None  [0]   [1]   [2]     [P - 2]      position i's entry is of the logits at i - 1

A prompt may be computed in pieces, and again from its start after a preemption; each entry is taken once, and is the same
whenever it is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import RecordError
from ..types.request import Sequence
from .batch import PromptSpan
from .schedule import Schedule

if TYPE_CHECKING:
    from ..sampling.sampler import Sampler


@dataclass(slots=True)
class _Chunk:
    """The part of one prompt that one step computes."""

    sequence: Sequence
    tokens: list[int]
    """The tokens asked about: those after the positions of the span."""


class PromptLogprobs:
    """
    Args:
        lacking: sequences that have not all of them, of all lanes; those that will not go on are taken out.
    """

    def __init__(self, sampler: Sampler, lacking: set[Sequence]) -> None:
        self._sampler = sampler
        self._lacking = lacking
        self._chunks: list[_Chunk] = []
        self._failed: set[Sequence] = set()

    def plan(self, schedule: Schedule) -> list[PromptSpan]:
        """The spans of prompts that are wanted of a step. Their logits go to `take`; then `failed` says for which they were not finite."""
        self._chunks, self._failed = [], set()
        spans: list[PromptSpan] = []
        if not self._lacking:
            return spans
        for row, sequence in enumerate(schedule.sequences):
            if sequence not in self._lacking:
                continue
            assert sequence.prompt_logprobs is not None
            computed = sequence.num_computed
            start = max(computed, len(sequence.prompt_logprobs) - 1)
            end = min(computed + int(schedule.counts[row]), sequence.num_prompt - 1)
            if start < end:
                spans.append(PromptSpan(row, start, end - start))
                self._chunks.append(_Chunk(sequence, sequence.tokens[start + 1 : end + 1]))
        return spans

    def take(self, first: int, logits: Tensor) -> None:
        """Takes a piece of the planned rows: logits [K, vocabulary] of rows `first` to `first` + K of all spans together."""
        finite = logits.isfinite().all(-1)
        all_finite = bool(finite.all())
        place = 0
        for count, chunks in groupby(self._cut(first, len(logits)), lambda chunk: chunk.sequence.params.prompt_logprobs or 0):
            group = list(chunks)
            tokens = [token for chunk in group for token in chunk.tokens]
            part = logits[place : place + len(tokens)]
            if not all_finite:
                self._failed.update(_without(finite[place : place + len(tokens)], group))
                part = torch.where(finite[place : place + len(tokens), None], part, 0)
            entries = iter(self._sampler.prompt_logprobs(part, tokens, count))
            for chunk in group:
                assert chunk.sequence.prompt_logprobs is not None
                chunk.sequence.prompt_logprobs += [next(entries) for _ in chunk.tokens]
                if not chunk.sequence.lacks_prompt_logprobs:
                    self._lacking.discard(chunk.sequence)
            place += len(tokens)

    def failed(self) -> dict[Sequence, RecordError]:
        """The sequences whose logits in the last step were not finite."""
        return {s: RecordError("non_finite_logits", "the model's logits for this record's prompt are not finite") for s in self._failed}

    def _cut(self, first: int, count: int) -> list[_Chunk]:
        """The planned chunks as far as they are in rows `first` to `first + count`."""
        parts, start = [], 0
        for chunk in self._chunks:
            begin, end = max(first - start, 0), min(first + count - start, len(chunk.tokens))
            if begin < end:
                parts.append(_Chunk(chunk.sequence, chunk.tokens[begin:end]))
            start += len(chunk.tokens)
        return parts


def _without(finite: Tensor, chunks: list[_Chunk]) -> set[Sequence]:
    """The sequences of chunks of which a row is not finite."""
    rows = iter(finite.tolist())
    taken = [(chunk.sequence, [next(rows) for _ in chunk.tokens]) for chunk in chunks]
    return {sequence for sequence, values in taken if not all(values)}
