"""Beam searches of an engine: logits of beams in, their next tokens and answers out."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from itertools import chain

from torch import Tensor

from ...containment import own_error
from ...errors import RecordError
from ...sampling.beam_search import BeamSearch, Candidates, Ending
from ...sampling.sampler import Sampler
from ...types.request import Request, Sequence
from ..scheduler import Scheduler
from ..stopping import EndTokens
from ..transcript import Transcripts
from .group import BeamGroup, Moves


@dataclass(slots=True)
class Moved:
    """The searches that a step ended or failed."""

    ended: list[list[Sequence]] = field(default_factory=list)
    """Of each search that is over what it found, best first."""
    failed: dict[Sequence, RecordError] = field(default_factory=dict)


class BeamGroups:
    """
    Args:
        sampler: one of its own, which remembers what beams have said.
    """

    def __init__(self, sampler: Sampler, scheduler: Scheduler, ends: EndTokens, transcripts: Transcripts) -> None:
        self._sampler = sampler
        self._scheduler = scheduler
        self._ends = ends
        self._transcripts = transcripts
        self._open: set[Request] = set()

    def __len__(self) -> int:
        """Searches that are not over."""
        return len(self._open)

    def open(self, prompt: Sequence) -> None:
        """Makes a sequence the first beam of its request's search."""
        request = prompt.request
        beam = request.beam
        assert beam is not None
        search = BeamSearch(
            width=beam.beam_width,
            num_return=beam.num_return or beam.beam_width,
            num_prompt=prompt.num_prompt - prompt.num_encoder,
            max_tokens=prompt.max_length - prompt.num_prompt,
            length_penalty=beam.length_penalty,
            scoring=beam.scoring,
            early_stopping=beam.early_stopping,
            num_ends=len(prompt.end_ids),
        )
        prompt.group = BeamGroup(request, search, [prompt])
        self._open.add(request)

    def close(self, request: Request) -> None:
        """A request is answered, failed or dropped; it may be none of those that are searched for."""
        self._open.discard(request)

    def step(self, logits: Tensor, beams: SequenceOf[Sequence]) -> Moved:
        """Takes logits [R, vocabulary] of the newest tokens of beams; moves on the searches that have all they waited for."""
        moved = Moved()
        if not beams:
            return moved
        by_count: dict[int, list[int]] = {}
        for row, sequence in enumerate(beams):
            assert isinstance(sequence.group, BeamGroup)
            by_count.setdefault(sequence.group.num_candidates(logits.shape[-1]), []).append(row)
        found: dict[int, Candidates | RecordError] = {}
        for count, rows in by_count.items():
            part = logits if len(rows) == len(beams) else logits[rows]
            found.update(zip(rows, self._sampler.candidates(part, [beams[row] for row in rows], count), strict=True))
        broken: set[BeamGroup] = set()
        complete: list[BeamGroup] = []
        for row, sequence in enumerate(beams):
            group, candidates = sequence.group, found[row]
            assert isinstance(group, BeamGroup)
            if isinstance(candidates, RecordError):
                moved.failed[sequence] = candidates
                broken.add(group)
            elif group.offer(sequence, candidates) and group not in broken:
                complete.append(group)
        moves = []
        for group in complete:
            first = group.live[0]
            try:
                moves.append(self._advance(group, moved))
            except BaseException as error:
                moved.failed[first] = own_error(error, f"request {group.request.request_id}")
        self._book(moves)
        return moved

    def _book(self, moves: SequenceOf[Moves]) -> None:
        turns = self._scheduler.beams
        assert turns is not None
        turns.fork(moves)
        self._scheduler.finish(chain.from_iterable(m.dropped for m in moves))
        turns.extend(moves)

    def _advance(self, group: BeamGroup, moved: Moved) -> Moves:
        first = group.live[0]
        moves = group.advance(self._end_of)
        for sequence, token in moves.extended:
            if sequence.grammar is not None:
                sequence.grammar.accept(token)
        if group.search.done:
            found = [ended.sequence for ended in group.ended[: group.search.num_return]]
            for sequence in found:
                self._transcripts.write(sequence)
            if found:
                moved.ended.append(found)
            else:
                moved.failed[first] = RecordError("invalid_value", "no token may come next: the record's constraints forbid them all")
        return moves

    def _end_of(self, sequence: Sequence, token: int) -> Ending | None:
        """The ending that `token` would bring to a beam, if any."""
        params = sequence.request.params
        ending = self._ends.ending(params, token, sequence.num_output + 1)
        if ending is not None:
            return ending
        if sequence.grammar is not None:
            grammar = sequence.grammar.fork()
            grammar.accept(token)
            if grammar.finished:
                return "stop", None
        if params.stop:
            longer = sequence.fork()
            longer.tokens.append(token)
            if (stop := self._transcripts.completed_stop(longer)) is not None:
                return "stop", stop
        return None
