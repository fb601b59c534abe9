"""Ends of outputs: end-of-sequence and stop tokens first, then length, then repetitions, then stop strings, which overrule those two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..types.params import SamplingParams
from ..types.repetition import DETECTED, REPETITION
from ..types.request import Sequence


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
