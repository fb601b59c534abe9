"""The base of the callable classes: a model is loaded when one is made, and each call answers a batch of rows.

    ds.map_batches(infer.ray.Generate, fn_constructor_kwargs={"model": …, "max_tokens": 64}, concurrency=4, batch_size=512)

A row's fields are those of a JSONL record, and what comes back are those of an output line: errors in place, one row for each. Columns that
are no fields of the task come back as they are.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..build.plan import make_plan
from ..containment import contained
from ..errors import RecordError
from ..fleet.start import start
from ..jobs.input.converted import line_of
from ..jobs.job_time import job_time
from ..jobs.jsonl import wrong_type
from ..jobs.record import Record
from ..jobs.tasks.adapters.declared import declared_in
from ..settings.args import EngineArgs
from ..settings.threads import bound_spinning
from . import shapes
from .answers import Answers
from .forms import rows_of

if TYPE_CHECKING:
    from ..build.plan import Plan
    from ..jobs.tasks.adapters.declared import Adapters
    from ..jobs.tasks.base import Task
    from ..jobs.tasks.spec import TaskSpec

log = logging.getLogger("infer.dataset")


class Transform(ABC):
    """A batch of rows in, the same rows with their answers out.

    A batch is a pyarrow Table, a pandas DataFrame, a dict of columns, or a list of dicts. The answer has the same form, but a dict of
    columns becomes a Table. Its columns are the same for every batch, whatever is in it: `choices` (or `embedding`, `score`, …), `usage`,
    `error`, as in output lines. What has other fields from row to row (log-probabilities, probabilities of labels, calls of functions) is
    JSON. A list of dicts becomes a list of output lines.

    What a row gets depends on the model, the settings and the row, never on its batch. Draws with a temperature are keyed by the run seed
    and the row's content, so rows that are equal in every column get the same draws: give them an id, a `seed` each, or `index_field`;
    or ask for several outputs with `n`.

    Args:
        model: alias, folder, .gguf file or hub id that each worker sees.
        index_field: a column with the number of each row in the whole data. It keys the draws in place of the row's content, and comes
            back as `index`: rows are then those of a JSONL job over the same records, byte for byte.
        keep_input: columns that hold prompts and parameters come back too.
        now: the time that templates tell; None: that of SOURCE_DATE_EPOCH, or when the model is loaded.
        settings: fields of EngineArgs; `seed` is the run seed.

    Raises UnknownArgument, ConfigError, ModelError, EngineError.
    """

    def __init__(
        self,
        model: str,
        *,
        index_field: str | None = None,
        keep_input: bool = False,
        now: datetime | None = None,
        **settings: Any,
    ) -> None:
        bound_spinning()
        args = EngineArgs.from_kwargs(model=model, **settings)
        args, adapters = declared_in(args, {name: "argument" if name in settings else "default" for name in EngineArgs.settings()})
        plan = make_plan(self._with_settings(args))
        plan.config.tell(log)
        spec = self._spec(adapters).settled(plan, log.info)
        task: Any = spec.make_task(plan, warn=log.warning, now=now or job_time())
        self._index_field, self._keep_input = index_field, keep_input
        self._of_task: Task[Any] = task
        index = {} if index_field is None else {"index": "int"}
        self._shape = {**index, **self._answer(plan, spec), "error": shapes.ERROR}
        self._engine = start(plan)
        self._answers = Answers(self._engine, task)

    def __call__(self, batch: Any) -> Any:
        """The rows of a batch with their answers, in order. What is wrong with one row is its `error`, and nobody else's.

        Raises ConfigError for what is no batch of rows, EngineError where the engine is lost.
        """
        rows = rows_of(batch)
        records = [self._record(place, fields) for place, fields in enumerate(rows.fields)]
        written = self._answers.rows(records, lambda row: rows.written(row if self._index_field else _without_index(row), self._shape))
        return rows.joined([name for name in rows.names if self._is_kept(name)], written, self._shape)

    def close(self) -> None:
        """Ends the processes that the engine has. It may be called again."""
        self._engine.close()

    # -- of each kind

    @abstractmethod
    def _spec(self, adapters: Adapters) -> TaskSpec:
        """The task that is made of rows."""

    @abstractmethod
    def _answer(self, plan: Plan, spec: TaskSpec) -> Mapping[str, Any]:
        """The shape of answers."""

    def _with_settings(self, args: EngineArgs) -> EngineArgs:
        """The engine's settings, with what the class says of them. Raises ConfigError."""
        return args

    # -- rows

    def _is_kept(self, name: str) -> bool:
        return name != self._index_field and (self._keep_input or name == "id" or self._of_task.is_extra(name))

    def _record(self, place: int, fields: dict[str, Any]) -> Record:
        """The record that a line of JSON with these fields is."""
        record = Record(place, place + 1, 0)
        with contained(record):
            number = None if self._index_field is None else self._number(fields)
            line = line_of(fields)
            record.size = len(line)
            record.read(line)
            record.index = _key(fields) if number is None else number
        return record

    def _number(self, fields: dict[str, Any]) -> int:
        """Takes the index out of the fields. Raises RecordError."""
        assert self._index_field is not None
        value = fields.pop(self._index_field, None)
        if type(value) is not int:
            raise wrong_type(self._index_field, "the row's number, an integer", value)
        if not 0 <= value < 1 << 63:
            raise RecordError("invalid_value", f"{self._index_field} must be the row's number, not {value}", param=self._index_field)
        return value


def _key(fields: Mapping[str, Any]) -> int:
    """63 bits of a hash of what a row holds, whatever the order of its columns and those in which it has nothing."""
    held = {name: fields[name] for name in sorted(fields) if fields[name] is not None}
    return int.from_bytes(hashlib.blake2b(line_of(held), digest_size=8).digest(), "little") >> 1


def _without_index(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "index"}
