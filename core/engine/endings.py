"""Endings: the sequences that end with the tokens which a step drew for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RecordError
from ..sampling.grammar.constrained import Constrained
from ..sampling.sampler import Samples
from ..types.request import Sequence
from .running import FOLLOWED, traits_of
from .stats import Stopwatch
from .stopping import EndTokens
from .transcript import Transcripts


class Endings:
    """A step costs one comparison of all tokens, and a look at those sequences that may end, or whose every token is looked at."""

    def __init__(self, ends: EndTokens, constrained: Constrained, transcripts: Transcripts) -> None:
        self._ends = ends
        self._constrained = constrained
        self._transcripts = transcripts
        self._may_end: set[int] = set()
        """Tokens that end some output, or once did."""

    def expect(self, choices: list[Sequence]) -> None:
        """Takes a request's choices, before any of them runs."""
        ends = self._ends.of(choices[0].request.params)
        self._may_end |= ends
        for choice in choices:
            choice.end_ids = ends

    def find(
        self,
        drawing: list[Sequence],
        samples: Samples,
        full: Collection[Sequence],
        failed: dict[Sequence, RecordError],
        watch: Stopwatch,
        traits: NDArray[np.uint8] | None = None,
    ) -> list[Sequence]:
        """Looks at tokens that were drawn and booked, one for each of `drawing`; returns the sequences that end with theirs. Those
        that cannot go on are added to `failed`.

        Args:
            full: those that are as long as they may be.
            traits: of `drawing`, see running.py; None: they are looked up.
        """
        failed.update((drawing[row], error) for row, error in samples.failed.items())
        if traits is None:
            traits = np.array([traits_of(sequence) for sequence in drawing], dtype=np.uint8)
        drawn = without(self._to_look_at(drawing, samples.tokens, traits & FOLLOWED, full), failed)
        self._ends.check_all(drawn)
        if self._constrained and (refused := self._constrained.follow(drawn)):
            failed.update(refused)
            drawn = without(drawn, refused)
        self._ends.check_repetitions(drawn)
        watch.count("commit")
        for row, logprobs in samples.logprobs.items():
            drawing[row].keep_logprobs(logprobs)
        if untold := self._transcripts.push_all(drawn):
            failed.update(untold)
            drawn = without(drawn, untold)
        watch.count("detokenize")
        return [s for s in drawn if s.finish_reason is not None]

    def _to_look_at(self, drawing: list[Sequence], tokens: list[int], followed: NDArray[Any], full: Collection[Sequence]) -> list[Sequence]:
        """In most steps none."""
        if not full and self._may_end.isdisjoint(tokens) and not followed.any():
            return []
        ends, always = self._may_end, followed.tolist()
        return [s for s, token, every in zip(drawing, tokens, always, strict=True) if every or token in ends or s in full]


def without(sequences: list[Sequence], some: Mapping[Sequence, RecordError]) -> list[Sequence]:
    """The sequences that are not among some."""
    return [s for s in sequences if s not in some] if some else sequences
