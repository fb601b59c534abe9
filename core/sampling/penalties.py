"""Penalties and biases: changes of logits before a draw, for tokens seen and tokens that may not come next.

Counts are kept from step to step, so that a step costs its one new token, however long the sequence is. They are a
cache and nothing more: a sequence that comes back after a pause is counted anew from its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np
import torch
from numpy.typing import NDArray

from infer.kernels.ops import Penalties

from ..types.params import SamplingParams
from ..types.request import Sequence
from .transfers import to_device

_FLOAT32 = np.finfo(np.float32)
#: Rows of a table of changes; the numbers are as in `Penalties`.
_BIAS, _REPETITION, _SUBTRACT = range(3)

#: A larger penalty would forbid a token, which is for constraints: logits are below 1e8, and a temperature makes 100 times as much.
_MOST_FACTOR = 1e28
#: Token ids [n] and their changes [3, n].
Entries = tuple[NDArray[np.int64], NDArray[np.float32]]


def is_changed(params: SamplingParams) -> bool:
    """True if logits change for reasons that last: penalties and biases."""
    return params.repetition_penalty != 1 or bool(params.frequency_penalty or params.presence_penalty or params.logit_bias)


class SeenTokens:
    """The tokens of one sequence whose logits change: those seen (in the prompt for repetition alone) and those with a bias."""

    def __init__(self, sequence: Sequence) -> None:
        params = sequence.request.params
        # Neither end of what float32 holds: 0 would make NaN of other extremes, and a logit of -inf is forbidden.
        self._factor = min(max(params.repetition_penalty, float(_FLOAT32.tiny)), _MOST_FACTOR)
        self._frequency = params.frequency_penalty
        self._presence = params.presence_penalty
        self._counts_output = params.repetition_penalty != 1 or bool(params.frequency_penalty or params.presence_penalty)
        self._num_counted = sequence.num_prompt
        biases = params.logit_bias or {}
        prompt = sequence.prompt_ids if params.repetition_penalty != 1 else []
        self._place = {token: place for place, token in enumerate(dict.fromkeys([*biases, *prompt]))}
        self._counts = [0] * len(self._place)
        self._token = np.array([*self._place, *[0] * 64], dtype=np.int64)
        self._changes = _no_changes(len(self._token))
        self._changes[_BIAS, : len(biases)] = list(biases.values())
        if prompt:
            # Tokens with a bias come first; those among them that the prompt has are looked up one by one.
            self._changes[_REPETITION, len(biases) : len(self._place)] = self._factor
            self._changes[_REPETITION, [self._place[t] for t in biases.keys() & set(prompt)]] = self._factor

    def catch_up(self, sequence: Sequence) -> None:
        """Counts the output tokens that have come since the last call."""
        if not self._counts_output:
            return
        for token in sequence.tokens[self._num_counted :]:
            place = self._place.get(token)
            if place is None:
                place = self._add(token)
            count = self._counts[place] = self._counts[place] + 1
            self._changes[_SUBTRACT, place] = self._frequency * count + self._presence
            if count == 1:
                self._changes[_REPETITION, place] = self._factor
        self._num_counted = len(sequence.tokens)

    def _add(self, token: int) -> int:
        place = self._place[token] = len(self._counts)
        self._counts.append(0)
        if place == len(self._token):
            self._token = np.concatenate([self._token, np.empty_like(self._token)])
            self._changes = np.concatenate([self._changes, _no_changes(self._changes.shape[1])], axis=1)
        self._token[place] = token
        return place

    def entries(self) -> Entries:
        """Not to be written to."""
        return self._token[: len(self._counts)], self._changes[:, : len(self._counts)]

    def entries_without(self, forbidden: list[int]) -> Entries:
        """These changes with some tokens, each named once, forbidden."""
        token, changes = self.entries()
        changes = changes.copy()
        changes[_SUBTRACT, [self._place[t] for t in forbidden if t in self._place]] = np.inf
        more_token, more_changes = _forbidding([t for t in forbidden if t not in self._place])
        return np.concatenate([token, more_token]), np.concatenate([changes, more_changes], axis=1)


class PenaltyBook:
    """
    Args:
        end_ids: tokens that `min_tokens` holds back, beside a record's own stop tokens.
    """

    def __init__(self, end_ids: frozenset[int]) -> None:
        self.end_ids = end_ids
        self._seen: dict[Sequence, SeenTokens] = {}
        """Of the sequences that the last step drew for."""

    def held_back(self, sequence: Sequence) -> frozenset[int]:
        """The tokens that may not come next because the output is not yet `min_tokens` long."""
        params = sequence.request.params
        return self.end_ids.union(params.stop_token_ids) if sequence.num_output < params.min_tokens else frozenset()

    def gather(
        self,
        sequences: list[Sequence],
        rows: list[int],
        vocabulary: int,
        device: torch.device,
        *,
        banned: Mapping[int, AbstractSet[int]] | None = None,
        may_end: AbstractSet[int] = frozenset(),
        again: bool = False,
    ) -> Penalties | None:
        """The changes in the logits of `sequences`, where only those at `rows` may have anything to change.

        Args:
            banned: row -> tokens that may not come next for other reasons than `min_tokens`.
            may_end: rows for which `min_tokens` does not count.
            again: see `Sampler.begin`.
        """
        lengths = np.zeros(len(sequences), dtype=np.int64)
        tokens: list[NDArray[np.int64]] = []
        changes: list[NDArray[np.float32]] = []
        seen_now: dict[Sequence, SeenTokens] = {}
        for row in rows:
            sequence = sequences[row]
            seen = None
            if is_changed(sequence.request.params):
                seen = seen_now[sequence] = self._seen.get(sequence) or SeenTokens(sequence)
                seen.catch_up(sequence)
            held_back = frozenset[int]() if row in may_end else self.held_back(sequence)
            forbidden = [t for t in held_back.union(banned.get(row, ()) if banned else ()) if t < vocabulary]
            if forbidden:
                ids, what = seen.entries_without(forbidden) if seen else _forbidding(forbidden)
            elif seen:
                ids, what = seen.entries()
            else:
                continue
            lengths[row] = len(ids)
            tokens.append(ids)
            changes.append(what)
        self._seen = self._seen | seen_now if again else seen_now
        if not lengths.any():
            return None
        bias, repetition, subtract = to_device(torch.from_numpy(np.concatenate(changes, axis=1)), device)
        return Penalties(
            row_start=to_device(torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])), device),
            token=to_device(torch.from_numpy(np.concatenate(tokens)), device),
            bias=bias,
            repetition=repetition,
            subtract=subtract,
        )


def _no_changes(count: int) -> NDArray[np.float32]:
    changes = np.zeros((3, count), dtype=np.float32)
    changes[_REPETITION] = 1
    return changes


def _forbidding(tokens: list[int]) -> Entries:
    changes = _no_changes(len(tokens))
    changes[_SUBTRACT] = np.inf
    return np.array(tokens, dtype=np.int64), changes
