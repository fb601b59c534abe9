"""The task of `infer batch`: each line goes to the task of its url, and its answer comes from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....containment import own_error
from ....errors import RecordError
from ...record import Record
from ...row_format import JsonRows, RowFormat
from ...tally import Tally
from ..base import RecordOptions, Task
from ..openai_batch import COMMANDS, batch_line, request_of
from ..pending import Pending

#: What tells a Batch line from one of another command.
_NAMES = frozenset({"custom_id", "url", "body"})


class BatchTask:
    """See `AnyTask`. Every row has OpenAI's form, that of a line which is no Batch line too.

    Args:
        options: of records; `batch_only` in those of `tasks`.
        tasks: the tasks of this model, by the commands that answer such lines alone.
        does: what the model does, for the error of a line that it cannot answer ("generates text").
        why_not: why it has no task of a command, where that is not said by what it does.
    """

    rows: RowFormat = JsonRows()

    def __init__(
        self, options: RecordOptions, tasks: Mapping[str, Task[Any]], *, does: str, why_not: Mapping[str, str] | None = None
    ) -> None:
        self.options = options
        self._tasks = dict(tasks)
        self._does, self._why_not = does, dict(why_not or {})
        first, *others = self._tasks.values()
        for task in others:
            task.speak_as(first)

    @property
    def waits(self) -> bool:
        """See `AnyTask`."""
        return any(task.waits for task in self._tasks.values())

    def prepare(self, records: Sequence[Record]) -> list[Any]:
        """See `AnyTask`. The records of each task together: texts are tokenized in batches."""
        found: dict[int, Pending] = {}
        by_task: dict[str, list[Record]] = {}
        for record in records:
            try:
                by_task.setdefault(self._task_of(record), []).append(record)
            except BaseException as error:
                found[record.ordinal] = self._failed(record, error)
        for command, some in by_task.items():
            found |= {pending.ordinal: pending for pending in self._tasks[command].prepare(some)}
        return [found[record.ordinal] for record in records]

    def _task_of(self, record: Record) -> str:
        if record.error is not None:
            raise record.error
        fields = record.fields
        if _NAMES.isdisjoint(fields):
            column = next((name for name in Task.owners if name in fields), None)
            other = "" if column is None else f"; a line with {column} belongs to infer {Task.owners[column]}"
            message = f"no OpenAI Batch line, which has a custom_id, a method, a url and a body{other}"
            raise RecordError("unsupported", message, param=column)
        url, _ = request_of(fields)
        command = COMMANDS[url]
        if command not in self._tasks:
            why = self._why_not.get(command, f"{self.options.model or 'the model'} {self._does} here")
            raise RecordError("unsupported", f"url {url} cannot be answered: {why}", param="url")
        return command

    def _failed(self, record: Record, error: BaseException) -> Pending:
        """A record that is no line for any of the tasks."""
        pending = Pending.of(record)
        options = self.options
        pending.batch = batch_line(record.index, command="batch", fingerprint=options.fingerprint, model=options.model)
        try:
            pending.batch.custom_id = record.take_id("custom_id")
        except RecordError as wrong:
            error = wrong
        pending.error = own_error(error, record.called)
        return pending

    def to_row(self, pending: Any, output: Any) -> dict[str, Any]:
        return self._of(pending).to_row(pending, output)

    def tally(self, pending: Any, output: Any) -> Tally:
        return self._of(pending).tally(pending, output)

    def _of(self, pending: Pending) -> Task[Any]:
        assert pending.batch is not None
        return self._tasks[COMMANDS[pending.batch.url]]
