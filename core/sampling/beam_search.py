"""Beam search over log-probabilities: which beams go on, which are finished, and when no better one can come.

Knows numbers only: a step takes the most likely next tokens of every live beam and says what becomes of them. Ties are broken
by the older beam, then the lower token id; among finished ones by the one that was found first. So a search depends on its own
log-probabilities alone.

Two scorings:

    "vllm"   cumulative log-probability / length ** length_penalty, where length counts the prompt, and the last token unless it
             ended the beam. Every ending among a beam's 2 * width likeliest tokens is kept; beams that are live when the
             tokens run out compete with the finished ones.
    "hf"     the same with the generated tokens alone, the ending one included. Of each step's candidates only the best `width`
             may finish a beam, and when there are `width` finished ones, `early_stopping` decides, as in transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: What ends a beam: (parent's place, token) -> finish reason and stop reason, or None if it goes on.
Ending = tuple[str, int | str | None]
Ends = Callable[[int, int], "Ending | None"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The likeliest next tokens of one beam, most likely first: those that the search wants to see, and those to be reported."""

    tokens: NDArray[np.int64]
    logprobs: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished beam: the live beam at place `parent` of its step, followed by `token`."""

    step: int
    parent: int
    token: int
    logprob: float
    """Cumulative."""
    score: float
    finish_reason: str
    stop_reason: int | str | None


@dataclass(frozen=True, slots=True)
class Going:
    """A live beam of the next step: that at place `parent`, followed by `token`."""

    parent: int
    token: int
    logprob: float


@dataclass(slots=True)
class BeamSearch:
    """One record's search.

    Args:
        width: beams kept.
        num_return: finished beams that are wanted, at most `width`.
        num_prompt: tokens of the prompt.
        max_tokens: most generated tokens.
        length_penalty: exponent of the length that log-probabilities are divided by.
        scoring: "vllm" or "hf".
        early_stopping: False, True (stop at `width` finished beams) or "never" (hf: only when it is certain that none gets better).
        num_ends: tokens that may end a beam.
    """

    width: int
    num_return: int
    num_prompt: int
    max_tokens: int
    length_penalty: float
    scoring: str
    early_stopping: bool | str
    num_ends: int
    live: list[float] = field(default_factory=lambda: [0.0])
    """Cumulative log-probabilities of the live beams, best first; at first one, of nothing."""
    finished: list[Hypothesis] = field(default_factory=list)
    """The best of those that ended, best first; at most `width`."""
    step: int = 0
    done: bool = False

    @property
    def num_candidates(self) -> int:
        """Likeliest tokens of each live beam that `advance` wants to see."""
        return self.width * (2 if self.scoring == "vllm" else max(2, 1 + self.num_ends))

    def advance(self, tokens: NDArray[np.int64], logprobs: NDArray[np.float32], ends: Ends) -> tuple[list[Going], list[Hypothesis]]:
        """One step of all live beams.

        Args:
            tokens, logprobs: [live beams, candidates]: each one's likeliest tokens and their log-probabilities; -inf is none.
            ends: what a token does to a beam, `max_tokens` aside.

        Returns the beams that live on, best first, and those of `finished` that are new. When `done`, none lives on.
        """
        assert not self.done
        assert len(tokens) == len(self.live)
        total = np.asarray(self.live, dtype=np.float64)[:, None] + logprobs.astype(np.float64)
        order = self._best_first(tokens, total)
        self.step += 1
        last = self.step >= self.max_tokens
        going, ended = (self._vllm if self.scoring == "vllm" else self._hf)(order, tokens, total, ends, last)
        kept = sorted([*self.finished, *ended], key=lambda h: -h.score)[: self.width]  # stable: who came first stays first
        new = [h for h in ended if h in kept]
        self.finished = kept
        self.live = [beam.logprob for beam in going]
        self.done = last or not going or self._is_settled()
        if self.done:
            going = []
        return going, new

    def best(self) -> list[Hypothesis]:
        """The hypotheses that are returned, best first."""
        return self.finished[: self.num_return]

    # -- one step --------------------------------------------------------------------------------------------------
    def _best_first(self, tokens: NDArray[np.int64], total: NDArray[np.float64]) -> list[tuple[int, int]]:
        """(beam, column) of all candidates there are, best first."""
        beams = np.repeat(np.arange(len(tokens)), tokens.shape[1])
        order = np.lexsort((tokens.ravel(), beams, -total.ravel()))
        found = order[total.ravel()[order] > -np.inf]
        return [divmod(i, tokens.shape[1]) for i in found.tolist()]

    def _vllm(
        self, order: list[tuple[int, int]], tokens: NDArray[np.int64], total: NDArray[np.float64], ends: Ends, last: bool
    ) -> tuple[list[Going], list[Hypothesis]]:
        going: list[Going] = []
        ended: list[Hypothesis] = []
        for beam, column in order:
            token, logprob = int(tokens[beam, column]), float(total[beam, column])
            ending = ends(beam, token)
            if ending is not None:
                counted = self.step if isinstance(ending[1], str) else self.step - 1
                ended.append(self._hypothesis(beam, token, logprob, ending, self.num_prompt + counted))
            elif len(going) < self.width:
                going.append(Going(beam, token, logprob))
        if last:
            length = self.num_prompt + self.step
            ended += [self._hypothesis(g.parent, g.token, g.logprob, ("length", None), length) for g in going]
        return going, ended

    def _hf(
        self, order: list[tuple[int, int]], tokens: NDArray[np.int64], total: NDArray[np.float64], ends: Ends, last: bool
    ) -> tuple[list[Going], list[Hypothesis]]:
        going: list[Going] = []
        ended: list[Hypothesis] = []
        full = self.early_stopping is True and len(self.finished) >= self.width
        for rank, (beam, column) in enumerate(order[: self.num_candidates]):
            token, logprob = int(tokens[beam, column]), float(total[beam, column])
            ending = ends(beam, token) or (("length", None) if last else None)
            if ending is None:
                if len(going) < self.width:
                    going.append(Going(beam, token, logprob))
            elif rank < self.width and not full:
                ended.append(self._hypothesis(beam, token, logprob, ending, self.step))
        return going, ended

    def _hypothesis(self, beam: int, token: int, logprob: float, ending: Ending, length: int) -> Hypothesis:
        return Hypothesis(self.step - 1, beam, token, logprob, self._score(logprob, length), *ending)

    def _score(self, logprob: float, length: int) -> float:
        return logprob / max(1, length) ** self.length_penalty

    # -- the end ---------------------------------------------------------------------------------------------------
    def _is_settled(self) -> bool:
        """True if no live beam is worth going on with."""
        if self.scoring == "hf":
            if len(self.finished) < self.width:
                return False
            if self.early_stopping is True:
                return True
            at_the_end = self.early_stopping == "never" and self.length_penalty > 0
            return self._score(self.live[0], self.max_tokens if at_the_end else self.step) <= self.finished[-1].score
        if self.early_stopping is True and len(self.finished) >= self.width:
            return True
        # Exact: a log-probability never grows, and the length that is best for it is the longest or the shortest one to come.
        if len(self.finished) < self.num_return:
            return False
        longest = self.num_prompt + self.max_tokens
        best_length = longest if self.length_penalty > 0 else self.num_prompt + self.step
        return self._score(self.live[0], best_length) <= self.finished[self.num_return - 1].score
