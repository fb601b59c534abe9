"""A compiled grammar and where an output stands in it: which tokens may come next."""

from __future__ import annotations

from typing import Any

import torch

from .token_bits import pack_flags


class CompiledGrammar:
    """A grammar for one vocabulary; its states are independent of each other."""

    def __init__(self, inner: Any, end_ids: list[int], vocab_size: int, silent: frozenset[int]) -> None:
        self.inner = inner
        self.num_bytes: int = inner.memory_size_bytes
        self.silent = silent
        """Tokens without a text, which the library complains about on stderr."""
        chosen = torch.ones(vocab_size, dtype=torch.bool)
        self.real = pack_flags(chosen.numpy())[None]
        """The bits of all tokens, int32 [1, ceil(V/32)]."""
        chosen[end_ids] = False
        self.not_ending = pack_flags(chosen.numpy())[None]
        """The bits of all but those that end an output."""

    def state(self) -> GrammarState:
        """The state at the beginning of an output."""
        return GrammarState(self)


class GrammarState:
    """Where an output stands in its grammar: a function of the tokens accepted, nothing else."""

    __slots__ = ("_bits", "_grammar", "_matcher", "finished")

    def __init__(self, grammar: CompiledGrammar) -> None:
        import xgrammar

        self._grammar = grammar
        self._matcher = xgrammar.GrammarMatcher(grammar.inner)
        self._bits: torch.Tensor | None = None
        """What is allowed next, int32 [1, ceil(V/32)], if it had to be known already."""
        self.finished = False
        """The output is complete and can only end: an end token came, or nothing else could."""
        self._look()

    def fork(self) -> GrammarState:
        """Another state at the same place."""
        twin = object.__new__(GrammarState)
        twin._grammar, twin._matcher, twin._bits, twin.finished = self._grammar, self._matcher.fork(), self._bits, self.finished
        return twin

    @property
    def is_dead(self) -> bool:
        """Whether no token at all is allowed."""
        return not bool((self._next() & self._grammar.real).any())

    def fill(self, bits: torch.Tensor, place: int) -> None:
        """Writes what is allowed next into row `place` of int32 [M, ceil(V/32)]: bit v % 32 of word v // 32 for token v."""
        if self._bits is not None:
            bits[place] = self._bits[0]
        elif not self._matcher.fill_next_token_bitmask(bits, place):
            bits[place] = -1

    def accept(self, token: int) -> bool:
        """Moves on by a token that was drawn; False, and nothing happened, if it is not allowed."""
        if self._matcher.is_terminated() or token in self._grammar.silent or not self._matcher.accept_token(token):
            return False
        self._bits = None
        self._look()
        return True

    def _look(self) -> None:
        """Where the text is complete it may still be able to go on, which only the next tokens tell."""
        matcher = self._matcher
        if matcher.is_terminated():
            self.finished = True
        elif matcher.is_completed():
            self.finished = not bool((self._next() & self._grammar.not_ending).any())

    def _next(self) -> torch.Tensor:
        if self._bits is None:
            bits = torch.empty_like(self._grammar.not_ending)
            self.fill(bits, 0)
            self._bits = bits
        return self._bits
