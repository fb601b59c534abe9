"""Answers as bytes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infer.core.errors import RecordError
from infer.core.jobs.output.sinks.vectors import failed_vector
from infer.core.jobs.row_format import Encoded, JsonRows, MatrixRows
from infer.core.jobs.tasks.openai_batch import BatchLine
from infer.core.jobs.tasks.pending import Pending

ERROR = RecordError("invalid_value", "no", param="input")


def task(vector: Any) -> Any:
    return SimpleNamespace(
        to_row=lambda pending, output: {"index": pending.index, "embedding": vector},
        vector=lambda pending, output: vector,
        ids_row=lambda pending, output: {"index": pending.index, "error": None},
    )


def pending(**more: Any) -> Pending:
    return Pending(7, 8, 9, **more)


def batch() -> BatchLine:
    return BatchLine("infer-0-7", "list", "m", custom_id="c")


def test_lines() -> None:
    rows = JsonRows()
    values = np.float32([0.1, 1e-8, 16777216, -1 / 3])
    made = rows.answer(task(values), pending(), None)
    assert made == Encoded(b'{"index":7,"embedding":[0.1,1e-8,16777216.0,-0.33333334]}', None)  # as short as float32 allows
    failed = rows.failure(pending(id="a"), ERROR)
    assert json.loads(failed.data) == {"index": 7, "id": "a", "error": ERROR.to_json()}
    assert failed.side is None


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_vectors(dtype: str) -> None:
    rows = MatrixRows(3, dtype)
    data, side = rows.answer(task(np.float32([1, 2, 4])), pending(), None)
    assert np.frombuffer(data, np.float32 if dtype == "float32" else np.int8).tolist() == (
        [1, 2, 4] if dtype == "float32" else [32, 64, 127]
    )
    assert side == b'{"index":7,"error":null}'
    data, side = rows.failure(pending(id=4, extra={"a": 1}), ERROR)
    assert data == failed_vector(3, dtype)
    assert side is not None
    assert json.loads(side) == {"index": 7, "id": 4, "error": ERROR.to_json(), "extra": {"a": 1}}


def test_a_failed_batch_line_has_its_place_too() -> None:
    _, side = MatrixRows(3, "float32").failure(pending(batch=batch()), ERROR)
    assert side is not None
    assert json.loads(side) == {"index": 7, "custom_id": "c", "error": ERROR.to_json()}


def test_a_vector_of_another_length_never_gets_in() -> None:
    rows = MatrixRows(3, "float32")
    for values in (np.ones(2, np.float32), np.ones((1, 3), np.float32)):
        with pytest.raises(AssertionError):
            rows.answer(task(values), pending(), None)
    with pytest.raises(RecordError, match="not a number"):
        rows.answer(task(np.float32([1, np.nan, 2])), pending(), None)
