"""Row settings: sampling parameters as arrays.

Each set of parameters is read once, and a step only looks its rows up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..types.params import MIN_TEMPERATURE, SamplingParams
from ..types.request import Sequence
from .penalties import is_changed

#: Temperatures above this are lowered to it: the draw is uniform long before, and float32 ends not far above.
MAX_TEMPERATURE = 1e30
#: A larger top_k keeps all there is.
MAX_TOP_K = 2**31
#: Sets of parameters that are remembered at a time: several steps' worth where every record has its own.
CAPACITY = 4096

#: Bits of `needs`: what a row asks for beyond the most likely token.
DRAWS, CHANGES, MIN_TOKENS, LOGPROBS, BAD_WORDS, ALLOWED, STRUCTURED, PROCESSORS, THINKING, RULES = (1 << bit for bit in range(10))

SETTINGS = np.dtype([("temperature", "f4"), ("top_k", "i8"), ("top_p", "f4"), ("min_p", "f4"), ("needs", "u2")])
"""One row; the numbers are as in `SamplingRows`."""


class RowSettings:
    """Remembers sets of parameters by identity, which holds since it keeps them alive."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._params: list[SamplingParams] = []
        self._places: dict[int, int] = {}
        self._table = np.zeros(CAPACITY, dtype=SETTINGS)
        self._last: tuple[list[Sequence], NDArray[np.void]] = [], self._table
        self._asked: tuple[NDArray[np.void], int] = self._table, 0

    def gather(self, sequences: list[Sequence]) -> NDArray[np.void]:
        """SETTINGS [R] of the sequences, not to be written to: the same array as long as they are the same sequences."""
        before, settings = self._last
        if sequences == before:
            return settings
        params = [s.request.params for s in sequences]
        try:
            places = self._find(params)
        except KeyError:
            self._learn(params)
            places = self._find(params)
        self._last = list(sequences), self._table[places]
        return self._last[1]

    def asked(self, settings: NDArray[np.void]) -> int:
        """The bits of `needs` that some of the rows have; looked up where they are those of the last call."""
        if settings is not self._asked[0]:
            self._asked = settings, int(np.bitwise_or.reduce(settings["needs"]))
        return self._asked[1]

    def _find(self, params: list[SamplingParams]) -> list[int]:
        return list(map(self._places.__getitem__, map(id, params)))

    def _learn(self, params: list[SamplingParams]) -> None:
        if len(self._params) > CAPACITY:
            self._clear()
        first = len(self._params)
        for p in params:
            if id(p) not in self._places:
                self._places[id(p)] = len(self._params)
                self._params.append(p)
        while len(self._params) > len(self._table):
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        self._table[first : len(self._params)] = [_settings(p) for p in self._params[first:]]


def _settings(params: SamplingParams) -> tuple[float, int, float, float, int]:
    greedy = params.greedy
    needs = (
        DRAWS * (not greedy)
        | CHANGES * is_changed(params)
        | MIN_TOKENS * (params.min_tokens > 0)
        # The best of several choices are found by their log-probabilities.
        | LOGPROBS * (params.reports_logprobs or params.num_choices > params.n)
        | BAD_WORDS * bool(params.bad_words)
        | ALLOWED * (params.allowed_token_ids is not None)
        | STRUCTURED * (params.structured_outputs is not None)
        | PROCESSORS * bool(params.logits_processors)
        # Processors that are a part of the model: its own distribution is what they leave.
        | RULES * any(getattr(one, "of_the_model", False) for one in params.logits_processors)
        | THINKING * (params.thinking_token_budget is not None)
    )
    temperature = 0.0 if greedy else min(max(params.temperature, MIN_TEMPERATURE), MAX_TEMPERATURE)
    return temperature, min(max(params.top_k, 0), MAX_TOP_K), params.top_p, params.min_p, needs
