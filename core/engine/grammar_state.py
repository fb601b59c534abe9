"""Where an output stands in its grammar: which tokens may come next."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import RecordError
from .grammar import CompiledGrammar, failure_of


class GrammarState:
    """Where an output stands in its grammar: a function of the tokens accepted, nothing else."""

    __slots__ = ("_bits", "_matcher", "finished", "grammar")

    def __init__(self, grammar: CompiledGrammar) -> None:
        self.grammar = grammar
        self._matcher = grammar.start.deep_copy()
        self._bits: NDArray[np.int32] | None = None
        """What is allowed next, one bit a token of the library's vocabulary, if it had to be known already."""
        self.finished = False
        """The output is complete and can only end: an end token came, or nothing else could."""
        self._look()

    def fork(self) -> GrammarState:
        """Another state at the same place."""
        twin = object.__new__(GrammarState)
        twin.grammar, twin._matcher, twin._bits, twin.finished = self.grammar, self._matcher.deep_copy(), self._bits, self.finished
        return twin

    @property
    def failure(self) -> RecordError | None:
        """Why no token at all is allowed: the grammar got too complex to follow, or leads nowhere."""
        self._next()
        return failure_of(self._matcher.get_error()) if self._matcher.is_error() else None

    def fill(self, bits: torch.Tensor, place: int) -> None:
        """Writes what is allowed next into row `place` of int32 [M, ceil(V/32)]: bit v % 32 of word v // 32 for token v."""
        bits[place] = torch.from_numpy(self._next()[: bits.shape[1]])

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
        self._bits = None
        self._look()
        return True

    def _look(self) -> None:
        """Where the text is complete it may still be able to go on, which the next tokens tell."""
        matcher = self._matcher
        if matcher.is_stopped():
            self.finished = not matcher.is_error()
        elif matcher.is_accepting():
            self.finished = not bool((self._next() & self.grammar.vocabulary.not_ending).any())

    def _next(self) -> NDArray[np.int32]:
        if self._bits is None:
            vocabulary, matcher = self.grammar.vocabulary, self._matcher
            bits = np.zeros_like(vocabulary.not_ending)
            if not matcher.is_error():
                matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
            self._bits = np.zeros_like(bits) if matcher.is_error() else bits & vocabulary.known
        return self._bits
