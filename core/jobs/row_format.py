"""How an answer becomes the bytes of its row: a line of JSON, or a vector with a line beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..errors import RecordError
from .jsonl import dumps

if TYPE_CHECKING:
    from .tasks.pending import Pending


class Encoded(NamedTuple):
    """A row as bytes. `side` is its line in OUT.ids.jsonl, for outputs whose rows cannot say whose they are."""

    data: bytes
    side: bytes | None = None


class RowFormat(Protocol):
    """Answers and errors as bytes. `task` is the one whose answer it is, `output` what its engine gave."""

    def answer(self, task: Any, pending: Pending, output: Any) -> Encoded:
        """The row of an answered record. Raises RecordError."""

    def failure(self, pending: Pending, error: RecordError) -> Encoded:
        """The row of a failed one."""


class JsonRows:
    """Lines of JSON."""

    def answer(self, task: Any, pending: Pending, output: Any) -> Encoded:
        return Encoded(dumps(task.to_row(pending, output)))

    def failure(self, pending: Pending, error: RecordError) -> Encoded:
        from .tasks.rows import error_row  # the tasks import this file

        return Encoded(dumps(error_row(pending, error)))


class MatrixRows:
    """One vector a row, of the same length each; a failed one is NaN (zeros in types without NaN).

    Of the task, `vector(pending, output)` gives float32 [size], and `ids_row(pending, output)` the line beside it.

    Args:
        size: values of a vector.
        dtype: one of `sinks.vectors.DTYPES`.
    """

    def __init__(self, size: int, dtype: str) -> None:
        from .sinks.vectors import encode_vector, failed_vector  # numpy: only where there are vectors

        self.size, self.dtype = size, dtype
        self._encode = encode_vector
        self._failed = failed_vector(size, dtype)

    def answer(self, task: Any, pending: Pending, output: Any) -> Encoded:
        vector = task.vector(pending, output)
        assert vector.shape == (self.size,), f"a vector of {vector.shape}, not ({self.size},)"
        return Encoded(self._encode(vector, self.dtype), dumps(task.ids_row(pending, output)))

    def failure(self, pending: Pending, error: RecordError) -> Encoded:
        """OpenAI Batch lines too get a native line beside the vector: it says which row it is of."""
        from .tasks.rows import native_row  # as above

        row = native_row(pending, {}, error)
        if pending.batch is not None:
            row = {"index": row.pop("index"), "custom_id": pending.batch.custom_id, **row}
        return Encoded(self._failed, dumps(row))
