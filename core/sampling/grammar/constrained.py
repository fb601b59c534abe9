"""Requests with structured output: checked when they come, given a grammar when they first run, and judged when they end."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable

from ...containment import own_error
from ...errors import RecordError
from ...types.request import GrammarPlace, Request, Sequence
from ...types.structured import StructuredOutputsParams
from .grammar import Grammars
from .grammar_state import GrammarState
from .valid import problem_of

#: Most characters of grammars (as the library reads them) of the requests that may run at a time; each is some 100 to 300 bytes of
#: memory. One request may run whatever its grammar has.
MAX_AT_A_TIME = 2**20

_PARAM = "structured_outputs"


class Constrained:
    """
    Args:
        grammars: compiles.
        admit: takes the choices of a request that may run.
    """

    def __init__(self, grammars: Grammars, admit: Callable[[list[Sequence]], None], *, most: int = MAX_AT_A_TIME) -> None:
        self._grammars = grammars
        self._admit = admit
        self._most = most
        self._open: dict[Request, int] = {}
        """Requests that were admitted -> characters of their grammars."""
        self._users: Counter[StructuredOutputsParams] = Counter()
        """The number of those with each constraint; one that is shared counts once."""
        self._size = 0
        self._held: deque[tuple[list[Sequence], int]] = deque()
        self._lost: dict[Request, RecordError] = {}
        """Requests of which sequences run without the grammar that they had when they came."""

    def __bool__(self) -> bool:
        return bool(self._open)

    @property
    def num_held(self) -> int:
        """Sequences of requests that wait because the grammars of others are large."""
        return sum(len(choices) for choices, _ in self._held)

    def add(self, choices: list[Sequence]) -> None:
        """Takes a new request, and admits it at once or when others are done. Raises RecordError if it cannot be compiled."""
        self._held.append((choices, self._grammars.compile(_spec(choices[0].request)).source.size))
        self._release()

    def start(self, admitted: Iterable[Sequence]) -> None:
        """Gives sequences that run for the first time their grammars."""
        for sequence in admitted:
            if sequence.grammar is None and sequence.request.params.structured_outputs is not None:
                try:
                    sequence.grammar = GrammarState(self._grammars.compile(_spec(sequence.request)))
                except BaseException as error:  # it was compiled once, and there is no memory now
                    self._lost[sequence.request] = own_error(error, f"request {sequence.request.request_id}")

    def remove(self, request: Request) -> None:
        """A request is answered, failed or dropped; it may be none of those with structured output."""
        self._lost.pop(request, None)
        if request in self._open:
            size, spec = self._open.pop(request), _spec(request)
            self._users[spec] -= 1
            if not self._users[spec]:
                del self._users[spec]
                self._size -= size
            self._release()
        elif request.params.structured_outputs is not None:
            self._held = deque(waiting for waiting in self._held if waiting[0][0].request is not request)

    def _release(self) -> None:
        while self._held:
            choices, size = self._held[0]
            request = choices[0].request
            spec = _spec(request)
            if not self._users[spec] and self._open and self._size + size > self._most:
                break
            self._held.popleft()
            self._size += 0 if self._users[spec] else size
            self._users[spec] += 1
            self._open[request] = size
            self._admit(choices)

    # -- outputs -------------------------------------------------------------------------------------------------
    def follow(self, drawn: Iterable[Sequence]) -> dict[Sequence, RecordError]:
        """Moves grammars on by the tokens drawn; an output that is complete ends, whatever its length. Returns those whose token
        does not fit, which is one that was drawn because none was allowed."""
        refused: dict[Sequence, RecordError] = {}
        for sequence in drawn:
            try:
                error = self._follow(sequence)
            except BaseException as mistake:
                error = own_error(mistake, f"request {sequence.request.request_id}")
            if error is not None:
                refused[sequence] = error
        return refused

    def _follow(self, sequence: Sequence) -> RecordError | None:
        grammar = sequence.grammar
        if grammar is None:
            return self._lost.get(sequence.request)
        token = sequence.tokens[-1]
        if not grammar.accept(token):
            return grammar.failure or _error("no token fits structured_outputs and the record's other fields")
        if grammar.finished and sequence.finish_reason != "stop":
            sequence.finish_reason = "stop"
            if token in self._grammars.end_ids:  # with ignore_eos too it is no part of the text
                sequence.end_ids |= {token}
        return None

    def judge(self, ended: Iterable[Sequence]) -> dict[Sequence, RecordError]:
        """Of the sequences that ended, those that are "stop" and are not what was asked for, and beams that had no grammar."""
        judged: dict[Sequence, RecordError] = {}
        for sequence in ended:
            if (lost := self._lost.get(sequence.request)) is not None:
                judged[sequence] = lost
            elif sequence.grammar is not None and sequence.finish_reason == "stop":
                try:
                    problem = self._problem_of(sequence, sequence.grammar)
                except BaseException as mistake:
                    judged[sequence] = own_error(mistake, f"request {sequence.request.request_id}")
                    continue
                if problem is not None:
                    judged[sequence] = _error(f"{_PARAM}: {problem}")
        return judged

    def _problem_of(self, sequence: Sequence, state: GrammarPlace) -> str | None:
        grammar, ids = state.grammar, sequence.output_ids
        if sequence.stop_reason is None or sequence.stop_reason in self._grammars.end_ids:
            ids = ids[:-1] if ids and ids[-1] in self._grammars.end_ids else ids
            text = self._grammars.text_of(ids)
        else:  # by a stop string or another token, which the text is without, or not
            ids = ids if sequence.params.include_stop_str_in_output else ids[:-1]
            text = self._grammars.text_of(ids) if sequence.text is None else sequence.text
            if not grammar.matches(text):
                return f"{sequence.stop_reason!r} of stop or stop_token_ids ended the output before it was complete"
        return None if grammar.source.schema is None else problem_of(text, grammar.source.schema)


def _spec(request: Request) -> StructuredOutputsParams:
    assert request.params.structured_outputs is not None
    return request.params.structured_outputs


def _error(message: str) -> RecordError:
    return RecordError("grammar_error", message, param=_PARAM)
