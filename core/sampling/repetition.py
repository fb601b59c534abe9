"""Repetitions at the end of an output, counted as its tokens come."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..types.repetition import RepetitionDetectionParams


class RepetitionCount:
    """The repetitions of one output: a function of its tokens, nothing else.

    For each length p of a pattern it knows how many of the newest tokens in a row equal the token p places before them: a pattern of
    p tokens stands `min_count` times at the end where these are p * (min_count - 1). So a token costs one comparison for each
    length that the output has room for, however long the patterns are.

    Args:
        longest: most tokens that the output can have.
    """

    __slots__ = ("_first", "_runs", "_size", "_tokens", "_wanted")

    def __init__(self, params: RepetitionDetectionParams, longest: int) -> None:
        last = max(0, min(params.max_pattern_size, longest // params.min_count))
        self._first = max(1, params.min_pattern_size) - 1
        self._wanted = np.arange(1, last + 1, dtype=np.int64) * (params.min_count - 1)
        self._runs = np.zeros(last, dtype=np.int64)
        self._tokens: NDArray[np.int64] = np.empty(64, dtype=np.int64)  # newest last; grows
        self._size = 0

    def push(self, token: int) -> bool:
        """Takes the newest token; True if the output now ends with a repetition."""
        if self._size == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.empty_like(self._tokens)])
        count = min(self._size, len(self._runs))
        before = self._tokens[self._size - count : self._size][::-1]  # 1, 2, ... places before it
        runs = self._runs[:count]
        runs += 1
        runs *= before == token
        self._tokens[self._size] = token
        self._size += 1
        return bool((runs[self._first :] >= self._wanted[self._first : count]).any())

    def catch_up(self, tokens: list[int], num_prompt: int) -> bool:
        """Takes the tokens behind the prompt that it has not seen; True if a repetition ends with the last of them."""
        found = False
        for token in tokens[num_prompt + self._size :]:
            found = self.push(token)
        return found
