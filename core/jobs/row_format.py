"""The bytes of an answer's row: a line of JSON, or a vector with a line beside it."""

from __future__ import annotations

from collections.abc import Mapping
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


class FlatRows(JsonRows):
    """Lines of JSON of one shape, answered or failed, so that tables can be read of them a piece at a time: see `flattened`.

    Args:
        empty: what a failed row has in the place of an answer.
    """

    def __init__(self, empty: Mapping[str, Any]) -> None:
        self._empty = empty

    def answer(self, task: Any, pending: Pending, output: Any) -> Encoded:
        row = task.to_row(pending, output)
        return Encoded(dumps(row if pending.batch is not None else flattened(row)))

    def failure(self, pending: Pending, error: RecordError) -> Encoded:
        if pending.batch is not None:  # the form of such lines is OpenAI's
            return super().failure(pending, error)
        from .tasks.rows import native_row  # as above

        return Encoded(dumps(flattened(native_row(pending, dict(self._empty), error))))


#: Fields of an error, what stands there where there is none, and how they are called in a flat row.
_NO_ERROR: Mapping[str, Any] = {"code": "", "message": "", "param": "", "retryable": False}


def flattened(row: Mapping[str, Any]) -> dict[str, Any]:
    """A native row with `error_code`, `error_message`, `error_param` (texts, empty where there is nothing) and `error_retryable` in
    the place of `error`, and with a `stop_reason` in each choice that is a text too, of a token its id."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "error":
            flat |= {f"error_{key}": (value or {}).get(key) or nothing for key, nothing in _NO_ERROR.items()}
        elif name == "choices":
            flat[name] = [_with_text_reason(choice) for choice in value]
        else:
            flat[name] = value
    return flat


def _with_text_reason(choice: Mapping[str, Any]) -> dict[str, Any]:
    reason = choice.get("stop_reason")
    flat: dict[str, Any] = {}
    for name, value in choice.items():
        if name != "stop_reason":
            flat[name] = value
        if name == "finish_reason":
            flat["stop_reason"] = "" if reason is None else str(reason)
    return flat


def with_error(row: Any) -> Any:
    """A parsed row, flat or not, with its `error` as an object or null; what is no row as it is."""
    if not isinstance(row, dict) or "error" in row or not isinstance(row.get("error_code"), str):
        return row
    rest = {name: value for name, value in row.items() if not name.startswith("error_")}
    error = {key: row.get(f"error_{key}") or (None if key == "param" else nothing) for key, nothing in _NO_ERROR.items()}
    return {**rest, "error": error if error["code"] else None}


class MatrixRows:
    """One vector a row, of the same length each; a failed one is NaN (zeros in types without NaN).

    Of the task, `vector(pending, output)` gives float32 [size], and `ids_row(pending, output)` the line beside it.

    Args:
        size: values of a vector.
        dtype: one of `sinks.vectors.DTYPES`.
        flat: the lines beside them are `flattened`.
    """

    def __init__(self, size: int, dtype: str, *, flat: bool = False) -> None:
        from .output.sinks.vectors import encode_vector, failed_vector  # numpy: only where there are vectors

        self.size, self.dtype = size, dtype
        self._line = (lambda row: dumps(flattened(row))) if flat else dumps
        self._encode = encode_vector
        self._failed = failed_vector(size, dtype)

    def answer(self, task: Any, pending: Pending, output: Any) -> Encoded:
        vector = task.vector(pending, output)
        assert vector.shape == (self.size,), f"a vector of {vector.shape}, not ({self.size},)"
        return Encoded(self._encode(vector, self.dtype), self._line(task.ids_row(pending, output)))

    def failure(self, pending: Pending, error: RecordError) -> Encoded:
        """OpenAI Batch lines too get a native line beside the vector: it says which row it is of."""
        from .tasks.rows import native_row  # as above

        row = native_row(pending, {}, error)
        if pending.batch is not None:
            row = {"index": row.pop("index"), "custom_id": pending.batch.custom_id, **row}
        return Encoded(self._failed, self._line(row))
