"""The place of an output in its grammar, which says what tokens may come next."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import RecordError
from .grammar import CompiledGrammar, failure_of


class GrammarState:
    """The place of an output in its grammar: a function of the tokens accepted, nothing else."""

    __slots__ = ("_address", "_bits", "_is_current", "_matcher", "finished", "grammar")

    def __init__(self, grammar: CompiledGrammar) -> None:
        self.grammar = grammar
        self._begin(grammar.start)
        self.finished = False
        """The output is complete and can only end: an end token came, or nothing else could."""
        self._look()

    def _begin(self, matcher: Any) -> None:
        self._matcher = matcher.deep_copy()
        self._bits: NDArray[np.int32] = np.empty_like(self.grammar.vocabulary.known)
        """The tokens allowed next, one bit for each of the library's vocabulary; valid if `_is_current`."""
        self._address = self._bits.ctypes.data  # to ask numpy for it takes longer than most masks
        self._is_current = False

    def fork(self) -> GrammarState:
        """Another state at the same place."""
        twin = object.__new__(GrammarState)
        twin.grammar, twin.finished = self.grammar, self.finished
        twin._begin(self._matcher)
        return twin

    @property
    def failure(self) -> RecordError | None:
        """The reason why no token at all is allowed: the grammar got too complex to follow, or leads nowhere."""
        self._next()
        return failure_of(self._matcher.get_error()) if self._matcher.is_error() else None

    def fill(self, bits: NDArray[np.int32], place: int) -> None:
        """Writes what is allowed next into row `place` of int32 [M, ceil(V/32)]: bit v % 32 of word v // 32 for token v."""
        bits[place] = self._next()[: bits.shape[1]]

    def accept(self, token: int) -> bool:
        """Moves on by a token that was drawn; False, and nothing happened, if it is not allowed."""
        vocabulary = self.grammar.vocabulary
        if self.finished or token in vocabulary.silent or not 0 <= token < vocabulary.num_tokens:
            return False
        if token in vocabulary.end_ids:
            self.finished = self._matcher.is_accepting()
            return self.finished
        if self._matcher.try_consume_tokens([token]) != 1:
            return False
        self._is_current = False
        self._look()
        return True

    def _look(self) -> None:
        """Sets `finished`. A text that is complete may still be able to go on, which the next tokens tell."""
        matcher = self._matcher
        if matcher.is_stopped():
            self.finished = not matcher.is_error()
        elif matcher.is_accepting():
            self.finished = not bool((self._next() & self.grammar.vocabulary.not_ending).any())

    def _next(self) -> NDArray[np.int32]:
        if not self._is_current:
            bits, matcher = self._bits, self._matcher
            if not matcher.is_error():
                matcher.unsafe_compute_mask_ptr(self._address, bits.nbytes)
            bits &= 0 if matcher.is_error() else self.grammar.vocabulary.known
            self._is_current = True
        return self._bits
