"""The beams of one request in the engine: sequences that share blocks, and go on together.

A step computes the newest token of each live beam. When all of them have their likeliest next tokens, `BeamSearch` says which go
on: the first heir of a beam is the beam itself, one token longer, the others are forks that share its blocks until they write.
Beams whose step came earlier, as after a preemption, wait for the rest, so that the schedule has no say in what is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from ...sampling.beam_search import BeamSearch, Candidates, Ending, Going, Hypothesis
from ...types.outputs import Logprob
from ...types.request import Request, Sequence

#: What a token would do to a beam that goes on with it.
EndOf = Callable[[Sequence, int], "Ending | None"]


@dataclass(slots=True)
class Ended:
    """A finished beam; its sequence holds no blocks."""

    hypothesis: Hypothesis
    sequence: Sequence


@dataclass(slots=True)
class Moves:
    """The changes to the schedule that one step of the search makes."""

    extended: list[tuple[Sequence, int]] = field(default_factory=list)
    """Live sequences and their next tokens."""
    forks: list[tuple[Sequence, Sequence]] = field(default_factory=list)
    """(a beam as it was, its further heir): the latter has the former's tokens, and is in `extended` too."""
    dropped: list[Sequence] = field(default_factory=list)
    """Live sequences that do not go on."""


@dataclass(slots=True, eq=False)
class BeamGroup:
    """
    Args:
        request: whose beams they are.
        search: decides.
        live: the live beams, in the search's order; at first the prompt.
    """

    request: Request
    search: BeamSearch
    live: list[Sequence]
    ended: list[Ended] = field(default_factory=list)
    """Best first."""
    peak_live: int = 1
    _seen: dict[Sequence, Candidates] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return self.search.width

    def num_candidates(self, vocab_size: int) -> int:
        """Likeliest tokens that `offer` wants of each live beam."""
        asked = self.request.params.logprobs or 0
        return max(self.search.num_candidates, vocab_size if asked < 0 else asked)

    def offer(self, sequence: Sequence, candidates: Candidates) -> bool:
        """Takes what comes next of one live beam; returns whether all have theirs now."""
        assert sequence not in self._seen
        self._seen[sequence] = candidates
        return len(self._seen) == len(self.live)

    def waits(self, sequence: Sequence) -> bool:
        """True if a live beam has its candidates, and is not to be computed again."""
        return sequence in self._seen

    def advance(self, end_of: EndOf) -> Moves:
        """One step of the search. To be called when `offer` said so."""
        rows, count = [self._seen[sequence] for sequence in self.live], self.search.num_candidates
        tokens, logprobs = np.stack([row.tokens[:count] for row in rows]), np.stack([row.logprobs[:count] for row in rows])
        before = self.live
        going, new = self.search.advance(tokens, logprobs, lambda beam, token: end_of(before[beam], token))
        self._keep(before, new, rows)
        moves = self._move_on(before, going, rows)
        self._seen = {}
        self.live = [sequence for sequence, _ in moves.extended]
        self.peak_live = max(self.peak_live, len(self.live))
        return moves

    def _keep(self, before: list[Sequence], new: Iterable[Hypothesis], rows: list[Candidates]) -> None:
        for hypothesis in new:
            sequence = before[hypothesis.parent].fork()
            sequence.tokens.append(hypothesis.token)
            _note_logprob(sequence, rows[hypothesis.parent], hypothesis.token)
            sequence.cumulative_logprob = hypothesis.logprob
            sequence.score = hypothesis.score
            sequence.finish_reason, sequence.stop_reason = hypothesis.finish_reason, hypothesis.stop_reason
            self.ended.append(Ended(hypothesis, sequence))
        place = {id(h): i for i, h in enumerate(self.search.finished)}
        self.ended = sorted((e for e in self.ended if id(e.hypothesis) in place), key=lambda e: place[id(e.hypothesis)])

    def _move_on(self, before: list[Sequence], going: list[Going], rows: list[Candidates]) -> Moves:
        moves = Moves()
        heirs: dict[int, int] = {}
        for beam in going:
            parent = before[beam.parent]
            heirs[beam.parent] = heirs.get(beam.parent, 0) + 1
            if heirs[beam.parent] == 1:
                moves.extended.append((parent, beam.token))
            else:
                fork = parent.fork()
                fork.group = self
                moves.forks.append((parent, fork))
                moves.extended.append((fork, beam.token))
        moves.dropped = [sequence for place, sequence in enumerate(before) if place not in heirs]
        for beam, (sequence, token) in zip(going, moves.extended, strict=True):
            _note_logprob(sequence, rows[beam.parent], token)
            sequence.cumulative_logprob = beam.logprob
        return moves


def _note_logprob(sequence: Sequence, row: Candidates, token: int) -> None:
    if sequence.logprobs is not None:
        rank = int(np.flatnonzero(row.tokens == token)[0])
        asked = sequence.request.params.logprobs or 0
        wanted = len(row.tokens) if asked < 0 else min(asked, len(row.tokens))
        shown = [*range(wanted), *([rank] if rank >= wanted else [])]
        sequence.logprobs.append({int(row.tokens[i]): Logprob(float(row.logprobs[i]), i + 1) for i in shown})
