"""Ends of outputs: end-of-sequence and stop tokens first, then length, then repetitions, then stop strings, which overrule those two."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import RecordError
from ..types.params import SamplingParams
from ..types.repetition import DETECTED, REPETITION
from ..types.request import Sequence
from .running import FOLLOWED, traits_of

if TYPE_CHECKING:
    from ..sampling.grammar.constrained import Constrained
    from ..sampling.sampler import Samples
    from .stats import Stopwatch


@dataclass(frozen=True, slots=True)
class EndTokens:
    """The model's own end tokens. The primary one gives no stop_reason, the others (generation_config.json) their id."""

    primary: int | None
    extra: frozenset[int]

    @property
    def all(self) -> frozenset[int]:
        return self.extra if self.primary is None else self.extra | {self.primary}

    def of(self, params: SamplingParams) -> frozenset[int]:
        """The tokens that may end an output, once it has `min_tokens`."""
        ends = frozenset() if params.ignore_eos else self.all
        return ends.union(params.stop_token_ids) if params.stop_token_ids else ends

    def check_all(self, sequences: Iterable[Sequence]) -> None:
        """`check` for each, at the price of a look at its newest token and its length."""
        for sequence in sequences:
            tokens = sequence.tokens
            if tokens[-1] in sequence.end_ids or len(tokens) >= sequence.max_length:
                self.check(sequence)

    def check(self, sequence: Sequence) -> None:
        """Sets finish_reason and stop_reason if the newest token ends the sequence."""
        ending = self.ending(sequence.params, sequence.tokens[-1], sequence.num_output)
        if ending is not None:
            sequence.finish_reason, sequence.stop_reason = ending
        elif not sequence.finished and len(sequence.tokens) >= sequence.max_length:
            sequence.finish_reason = "length"

    def check_repetitions(self, sequences: Iterable[Sequence]) -> None:
        """Ends those that go round in circles, if that is looked for and nothing else has ended them."""
        for sequence in sequences:
            if sequence.repetitions is None:
                continue
            found = sequence.repetitions.catch_up(sequence.tokens, sequence.num_prompt)
            if found and not sequence.finished and sequence.num_output >= sequence.params.min_tokens:
                sequence.finish_reason, sequence.stop_reason = REPETITION, DETECTED

    def ending(self, params: SamplingParams, token: int, num_output: int) -> tuple[str, int | None] | None:
        """(finish_reason, stop_reason) of an output of `num_output` tokens with `token` last, if that ends it."""
        if num_output < params.min_tokens:
            return None
        if not params.ignore_eos and (token == self.primary or token in self.extra):
            return "stop", None if token == self.primary else token
        return ("stop", token) if token in params.stop_token_ids else None

    def ended_by_token(self, sequence: Sequence) -> bool:
        """True if the last token ended the sequence, and so is no part of its text."""
        ends = sequence.tokens[-1] in sequence.end_ids
        return sequence.finish_reason == "stop" and not isinstance(sequence.stop_reason, str) and ends


class Endings:
    """The sequences that end with the tokens which a step drew for them.

    A step costs one comparison of all tokens, and a look at those sequences that may end, or whose every token is looked at.
    """

    def __init__(
        self, ends: EndTokens, constrained: Constrained, push_all: Callable[[list[Sequence]], Mapping[Sequence, RecordError]]
    ) -> None:
        self._ends = ends
        self._constrained = constrained
        self._push_all = push_all
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
        traits: NDArray[np.uint16] | None = None,
    ) -> list[Sequence]:
        """Looks at tokens that were drawn and booked, one for each of `drawing`; returns the sequences that end with theirs. Those
        that cannot go on are added to `failed`.

        Args:
            full: those that are as long as they may be.
            traits: of `drawing`, see running.py; None: they are looked up.
        """
        failed.update((drawing[row], error) for row, error in samples.failed.items())
        if traits is None:
            traits = np.array([traits_of(sequence) for sequence in drawing], dtype=np.uint16)
        drawn = without(self._to_look_at(drawing, samples.tokens, traits, full), failed)
        self._ends.check_all(drawn)
        if self._constrained and (refused := self._constrained.follow(drawn)):
            failed.update(refused)
            drawn = without(drawn, refused)
        self._ends.check_repetitions(drawn)
        watch.count("commit")
        for row, logprobs in samples.logprobs.items():
            drawing[row].keep_logprobs(logprobs)
        if untold := self._push_all(drawn):
            failed.update(untold)
            drawn = without(drawn, untold)
        watch.count("detokenize")
        return [s for s in drawn if s.finish_reason is not None]

    def _to_look_at(
        self, drawing: list[Sequence], tokens: list[int], traits: NDArray[np.uint16], full: Collection[Sequence]
    ) -> list[Sequence]:
        """In most steps none."""
        if not full and self._may_end.isdisjoint(tokens) and not int(np.bitwise_or.reduce(traits)) & FOLLOWED:
            return []
        ends, always = self._may_end, (traits & FOLLOWED).tolist()
        return [s for s, token, every in zip(drawing, tokens, always, strict=True) if every or token in ends or s in full]


def without(sequences: list[Sequence], some: Mapping[Sequence, RecordError]) -> list[Sequence]:
    """The sequences that are not among some."""
    return [s for s in sequences if s not in some] if some else sequences
