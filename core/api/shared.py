"""Shared engine: several calls may be in progress at once (a stream that is read now and then, and others in between)."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Sequence
from itertools import islice
from typing import Any

from ..containment import contained
from ..engine.protocol import Answer, AnyEngine
from ..intake.intake import Intake
from .drafts import Draft

#: Prompts that are read and tokenized in one go, of a call that does not read all of them at once.
BATCH = 256


class SharedEngine:
    """Each call gets its own answers, whichever of them makes the engine's steps."""

    def __init__(self, engine: AnyEngine) -> None:
        self._engine = engine
        self._count = 0
        self._answers: dict[str, Answer] = {}
        self._expected: set[str] = set()
        self._enqueued: list[Draft] = []
        """Those that `wait` is to answer, in order."""
        self._waiting: dict[str, Draft] = {}
        """The ones among them that the engine has."""

    def enqueue(self, drafts: Sequence[Draft], intake: Intake[Any], *, raising: bool = True) -> list[str]:
        """Gives drafts to the engine, for `wait` to collect; returns their ids. Where one has an error that is raised, none is given."""
        mine: dict[str, Draft] = {}
        try:
            for one in self._add(drafts, intake, mine):
                _checked(one.output(None), raising=raising)
        except BaseException:
            self._drop(mine)
            raise
        self._enqueued += drafts
        self._waiting |= mine
        return [one.request_id for one in drafts]

    @property
    def num_enqueued(self) -> int:
        """Drafts that `wait` would answer."""
        return len(self._enqueued)

    def wait(self, *, raising: bool = True) -> Generator[Any]:
        """The outputs of what was enqueued, as they finish. Closed early, it drops the rest."""
        drafts, waiting = self._enqueued, self._waiting
        self._enqueued, self._waiting = [], {}
        try:
            for one in drafts:
                if one.error is not None:
                    yield _checked(one.output(None), raising=raising)
            self._engine.expect_more(False)
            while waiting:
                for answer in self._pick_up(waiting):
                    yield _checked(waiting.pop(answer.request_id).output(answer), raising=raising)
        finally:
            self._drop(waiting)

    def step(self) -> list[Any]:
        """The outputs of what was enqueued that one more step of the engine finishes, errors in them."""
        if not self._waiting:
            return []
        self._engine.expect_more(False)
        answers = self._pick_up(self._waiting)
        outputs = [self._waiting.pop(answer.request_id).output(answer) for answer in answers]
        self._forget({answer.request_id for answer in answers})
        return outputs

    def abort(self, request_ids: Collection[str]) -> None:
        """Drops some of what was enqueued."""
        for request_id in request_ids:
            self._waiting.pop(request_id, None)
        self._drop(request_ids)
        self._forget(request_ids)

    def _forget(self, request_ids: Collection[str]) -> None:
        if request_ids:
            self._enqueued = [one for one in self._enqueued if one.request_id not in request_ids]

    def move_to(self, engine: AnyEngine) -> None:
        """Goes on with another engine. What the one before had not answered is dropped."""
        self._engine = engine
        self._answers.clear()
        self._expected.clear()
        self._enqueued, self._waiting = [], {}

    def outputs(
        self, drafts: Iterable[Draft], intake: Intake[Any], *, look_ahead: int | None = None, raising: bool = True
    ) -> Generator[Any]:
        """The outputs of one call as they finish. A call that is closed early leaves nothing in the engine.

        Args:
            look_ahead: most drafts taken and not answered; None: all are taken at once.
            raising: raise the first error that is met.
        """
        drafts = iter(drafts)
        waiting: dict[str, Draft] = {}
        more = True
        try:
            while more or waiting:
                room = None if look_ahead is None else min(BATCH, look_ahead - len(waiting))
                if more and room != 0:
                    batch = list(islice(drafts, room))
                    more = room is not None and len(batch) == room
                    for one in self._add(batch, intake, waiting):
                        yield _checked(one.output(None), raising=raising)
                if waiting:
                    self._engine.expect_more(more)
                    for answer in self._pick_up(waiting):
                        yield _checked(waiting.pop(answer.request_id).output(answer), raising=raising)
        finally:
            self._drop(waiting)

    def _add(self, batch: Sequence[Draft], intake: Intake[Any], waiting: dict[str, Draft]) -> list[Draft]:
        """Adds drafts to the engine and to those that wait; returns those that have an error. They are numbered too, so that no
        number depends on the others."""
        for one in batch:
            one.index, self._count = self._count, self._count + 1
        intake.read(batch)
        for one in batch:
            if one.error is None:
                with contained(one):
                    self._engine.add(one.to_request())
                    self._expected.add(one.request_id)
                    waiting[one.request_id] = one
        return [one for one in batch if one.error is not None]

    def _pick_up(self, waiting: Collection[str]) -> list[Answer]:
        """Answers to some of these requests, in the order in which they came; makes one step if there are none."""
        if not any(request_id in waiting for request_id in self._answers):
            assert self._engine.num_unfinished, "answers are waited for that nobody computes"
            for answer in self._engine.step():
                if answer.request_id in self._expected:
                    self._expected.discard(answer.request_id)
                    self._answers[answer.request_id] = answer
        return [self._answers.pop(request_id) for request_id in list(self._answers) if request_id in waiting]

    def _drop(self, waiting: Iterable[str]) -> None:
        """Nobody wants these any more, answered or not."""
        for request_id in waiting:
            self._answers.pop(request_id, None)
            self._expected.discard(request_id)
            if self._engine.is_open(request_id):
                self._engine.abort(request_id)


def _checked(output: Any, *, raising: bool) -> Any:
    if raising and output.error is not None:
        raise output.error
    return output
