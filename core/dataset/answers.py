"""Answers of an engine to records that are all there: each gets its row, errors in place. Several threads may ask, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from ..containment import contained
from ..errors import RecordError
from ..jobs.record import Record
from ..jobs.tasks.rows import error_row

if TYPE_CHECKING:
    from ..engine.protocol import AnyEngine
    from ..jobs.tasks.pending import Pending
    from ..jobs.tasks.protocol import AnyTask

#: Makes of a row what the caller wants of it.
Write = Callable[[dict[str, Any]], Any]


class Answers:
    """
    Args:
        engine, task: what answers, and what makes requests of records and rows of answers.
    """

    def __init__(self, engine: AnyEngine, task: AnyTask) -> None:
        self._engine, self._task = engine, task
        self._numbers = count()
        self._lock = threading.Lock()

    def rows(self, records: Sequence[Record], write: Write) -> list[Any]:
        """The row of each record, in order. Raises InferError where the engine is lost; nothing of these records is left in it."""
        with self._lock:
            return self._rows(records, write)

    def _rows(self, records: Sequence[Record], write: Write) -> list[Any]:
        pendings = self._task.prepare(records)
        rows: list[Any] = [None] * len(pendings)
        waiting: dict[str, int] = {}
        try:
            for place, pending in enumerate(pendings):
                self._refuse_batch_lines(pending)
                if pending.error is None:
                    with contained(pending):
                        self._ask(pending, place, waiting)
                if pending.error is not None:
                    rows[place] = self._failed(pending, write)
            self._engine.expect_more(False)
            while waiting:
                for output in self._engine.step():
                    place = waiting.pop(output.request_id)
                    whole = pendings[place].answered(output)
                    if whole is not None:
                        rows[place] = self._row(pendings[place], whole, write)
        finally:
            for request_id in waiting:
                if self._engine.is_open(request_id):
                    self._engine.abort(request_id)
        return rows

    @staticmethod
    def _refuse_batch_lines(pending: Pending) -> None:
        if pending.batch is not None:
            pending.batch = None
            pending.error = RecordError("unsupported", "a row of an OpenAI Batch file has a form of its own; infer batch answers it")

    def _ask(self, pending: Pending, place: int, waiting: dict[str, int]) -> None:
        """All that is to be asked for one record, or nothing, under ids that no other has, as records may be equal. Raises RecordError."""
        requests = pending.to_requests()
        added: list[str] = []
        number = next(self._numbers)
        try:
            for request in requests:
                _, dot, part = request.request_id.partition(".")
                request.request_id = f"{number}{dot}{part}"
                self._engine.add(request)
                added.append(request.request_id)
        except BaseException:
            for request_id in added:
                self._engine.abort(request_id)
            raise
        waiting |= dict.fromkeys(added, place)
        pending.drop_prompt()

    def _row(self, pending: Pending, whole: Any, write: Write) -> Any:
        with contained(pending):
            for one in whole if isinstance(whole, list) else (whole,):
                if one.error is not None:
                    raise one.error
            return write(self._task.to_row(pending, whole))
        return self._failed(pending, write)

    def _failed(self, pending: Pending, write: Write) -> Any:
        assert pending.error is not None
        error = pending.error
        with contained(pending):
            return write(error_row(pending, error))
        # What the record says of itself cannot be written: the row says no more than what happened.
        pending.id, pending.extra = None, {}
        return write(error_row(pending, error))
