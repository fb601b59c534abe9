"""Which logits change before a draw: penalties for tokens seen, and tokens that `min_tokens` holds back.

Counts are kept from step to step, so that a step costs its one new token, however long the sequence is. They are a
cache and nothing more: a sequence that comes back after a pause is counted anew from its tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from infer.kernels.ops import Penalties

from ..params import SamplingParams
from .request import Sequence

_LARGEST = float(np.finfo(np.float32).max)


def is_penalized(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1 or bool(params.frequency_penalty or params.presence_penalty)


class SeenTokens:
    """The tokens of one sequence that its penalties are about (prompt tokens count for repetition alone)."""

    def __init__(self, sequence: Sequence) -> None:
        params = sequence.request.params
        self.repetition = min(params.repetition_penalty, _LARGEST)
        self._frequency = params.frequency_penalty
        self._presence = params.presence_penalty
        self._num_counted = sequence.num_prompt
        prompt = sequence.tokens[: sequence.num_prompt] if self.repetition != 1 else []
        self._place = {token: place for place, token in enumerate(dict.fromkeys(prompt))}
        self._counts = [0] * len(self._place)
        self._token = np.array([*self._place, *[0] * 64], dtype=np.int64)
        self._subtract = np.zeros(len(self._token), dtype=np.float32)

    def catch_up(self, sequence: Sequence) -> None:
        """Counts the output tokens that have come since the last call."""
        for token in sequence.tokens[self._num_counted :]:
            place = self._place.get(token)
            if place is None:
                place = self._add(token)
            self._counts[place] += 1
            self._subtract[place] = self._frequency * self._counts[place] + self._presence
        self._num_counted = len(sequence.tokens)

    def _add(self, token: int) -> int:
        place = self._place[token] = len(self._counts)
        self._counts.append(0)
        if place == len(self._token):
            self._token = np.concatenate([self._token, np.empty_like(self._token)])
            self._subtract = np.concatenate([self._subtract, np.zeros_like(self._subtract)])
        self._token[place] = token
        return place

    def entries(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(token ids, what each one's penalties subtract). Not to be written to."""
        return self._token[: len(self._counts)], self._subtract[: len(self._counts)]

    def entries_without(self, forbidden: list[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The same with these tokens forbidden."""
        token, subtract = self.entries()
        subtract = subtract.copy()
        subtract[[self._place[t] for t in forbidden if t in self._place]] = np.inf
        return _extended(token, subtract, [t for t in forbidden if t not in self._place])


class PenaltyBook:
    """
    Args:
        end_ids: tokens that `min_tokens` holds back, beside a record's own stop tokens.
    """

    def __init__(self, end_ids: frozenset[int]) -> None:
        self.end_ids = end_ids
        self._seen: dict[Sequence, SeenTokens] = {}
        """Of the sequences that the last step drew for."""

    def gather(self, sequences: list[Sequence], rows: list[int], vocabulary: int, device: torch.device) -> Penalties | None:
        """What changes in the logits of `sequences`, where only those at `rows` may have anything to change."""
        lengths = np.zeros(len(sequences), dtype=np.int64)
        repetition = np.ones(len(sequences), dtype=np.float32)
        tokens: list[NDArray[np.int64]] = []
        subtract: list[NDArray[np.float32]] = []
        seen_now: dict[Sequence, SeenTokens] = {}
        for row in rows:
            sequence = sequences[row]
            params = sequence.request.params
            seen = None
            if is_penalized(params):
                seen = seen_now[sequence] = self._seen.get(sequence) or SeenTokens(sequence)
                seen.catch_up(sequence)
                repetition[row] = seen.repetition
            if sequence.num_output < params.min_tokens:
                forbidden = [t for t in self.end_ids.union(params.stop_token_ids) if t < vocabulary]
                ids, minus = seen.entries_without(forbidden) if seen else _extended(_NO_TOKEN, _NO_VALUE, forbidden)
            elif seen:
                ids, minus = seen.entries()
            else:
                continue
            lengths[row] = len(ids)
            tokens.append(ids)
            subtract.append(minus)
        self._seen = seen_now
        if not lengths.any():
            return None
        return Penalties(
            row_start=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])).to(device),
            token=torch.from_numpy(np.concatenate(tokens)).to(device),
            repetition=torch.from_numpy(np.repeat(repetition, lengths)).to(device),
            subtract=torch.from_numpy(np.concatenate(subtract)).to(device),
        )


_NO_TOKEN = np.empty(0, dtype=np.int64)
_NO_VALUE = np.empty(0, dtype=np.float32)


def _extended(
    token: NDArray[np.int64], subtract: NDArray[np.float32], forbidden: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    more = np.full(len(forbidden), np.inf, dtype=np.float32)
    return np.concatenate([token, np.array(forbidden, dtype=np.int64)]), np.concatenate([subtract, more])
