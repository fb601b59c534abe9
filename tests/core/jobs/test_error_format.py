"""Rows of one shape: what reads tables a piece at a time can read them, wherever the failed ones are; our own readers too."""

from __future__ import annotations

import io
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from infer.core.jobs.input.selection import Shard
from infer.core.jobs.jsonl import dumps
from infer.core.jobs.merge import merge
from infer.core.jobs.output.opening import open_output
from infer.core.jobs.row_format import flattened, with_error
from infer.core.jobs.shards import open_shards

ERRORS = ("error_code", "error_message", "error_param", "error_retryable")
#: Lines that fail, and how.
BAD = [
    (b'{"prompt": 5}', "invalid_type", "prompt"),
    (b"not JSON", "invalid_json", ""),
    (dumps({"prompt": "x" * 300}), "prompt_too_long", "prompt"),
    (b'{"prompt": "a", "stream": true}', "unsupported", "stream"),
]
#: Where among the records: at the start for longer than a block of a reader, at the end, here and there, nowhere, everywhere.
PLACES = {
    "first": lambda i: i < 150,
    "last": lambda i: i >= 290,
    "some": lambda i: i % 97 == 96,
    "none": lambda i: False,
    "all": lambda i: True,
}


def lines(bad: Any, count: int = 300) -> list[bytes]:
    return [BAD[i % len(BAD)][0] if bad(i) else dumps({"prompt": f"text {i}", "max_tokens": 1 + i % 9}) for i in range(count)]


@pytest.mark.parametrize("command", ["generate", "chat"])
@pytest.mark.parametrize("place", PLACES)
def test_every_row_has_one_shape(run_job: Any, command: str, place: str) -> None:
    pa_json = pytest.importorskip("pyarrow.json")
    bad = PLACES[place]
    data = b"".join(line + b"\n" for line in lines(bad))
    options = {"prompt_field": "prompt"} if command == "chat" else {}
    out, _ = run_job(data, command=command, error_format="flat", **options)
    rows = [json.loads(line) for line in out.splitlines()]
    assert len({json.dumps(shape(row)) for row in rows}) == 1
    assert [row["index"] for row in rows] == list(range(300))
    table = pa_json.read_json(io.BytesIO(out), read_options=pa_json.ReadOptions(block_size=1024))
    assert table.num_rows == 300
    found = table.select(ERRORS).to_pylist()
    for i, row in enumerate(found):
        if bad(i):
            assert (row["error_code"], row["error_param"]) == BAD[i % len(BAD)][1:]
        else:
            assert list(row.values()) == ["", "", "", False]


def shape(value: Any) -> Any:
    """The names and types of a JSON value, of lists those of their first item."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def test_objects_are_what_a_reader_of_pieces_fails_on(run_job: Any) -> None:
    """Why there is the other format: this is the one that is written unless said."""
    pa = pytest.importorskip("pyarrow")
    pa_json = pytest.importorskip("pyarrow.json")
    out, _ = run_job(b"".join(line + b"\n" for line in lines(PLACES["last"])))
    with pytest.raises(pa.lib.ArrowException):
        pa_json.read_json(io.BytesIO(out), read_options=pa_json.ReadOptions(block_size=1024))
    whole = pa_json.read_json(io.BytesIO(out), read_options=pa_json.ReadOptions(block_size=len(out)))
    assert whole.num_rows == 300


def test_there_and_back() -> None:
    choice = {"index": 0, "text": "a", "finish_reason": "stop"}
    good = {"index": 0, "id": "a", "choices": [{**choice, "stop_reason": 5}, choice], "usage": {}, "error": None, "extra": {"a": 1}}
    flat = flattened(good)
    assert list(flat) == ["index", "id", "choices", "usage", *ERRORS, "extra"]
    assert flat["choices"] == [{**choice, "stop_reason": "5"}, {**choice, "stop_reason": ""}]
    assert with_error(flat)["error"] is None
    error = {"code": "invalid_value", "message": "no", "param": None, "retryable": True}
    failed = flattened({"index": 0, "error": error})
    assert failed == {"index": 0, "error_code": "invalid_value", "error_message": "no", "error_param": "", "error_retryable": True}
    assert with_error(failed) == {"index": 0, "error": error}
    for other in (5, {"index": 0}, good, {"error_code": 7}):
        assert with_error(other) == other


def test_lines_of_openai_batch_keep_their_form(run_job: Any) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a", "stream": True}}
    data = dumps(line) + b"\n" + dumps({**line, "custom_id": "b", "body": {"prompt": "a"}}) + b"\n"
    assert run_job(data, error_format="flat")[0] == run_job(data)[0]


def test_our_own_readers(attempt: Any, tmp_path: Path) -> None:
    source, out, errors = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    source.write_bytes(b"".join(line + b"\n" for line in lines(PLACES["some"])))
    options = {"task": {"error_format": "flat"}, "errors": str(errors)}
    stats = attempt(source, out, **options).stats
    assert (stats.num_failed, len(errors.read_bytes().splitlines())) == (3, 3)
    before = out.read_bytes()
    again = attempt(source, out, retry_errors=True, **options).stats
    assert (again.num_failed, out.read_bytes()) == (3, before)
    parts = [tmp_path / f"part-{i}.jsonl" for i in range(2)]
    for i, part in enumerate(parts):
        attempt(source, part, shard=Shard(i, 2), task={"error_format": "flat"})
    merged = tmp_path / "merged.jsonl"
    names = [str(part) for part in parts]
    shards = open_shards(names)
    with closing(open_output(str(merged), inputs=[shard.status for shard in shards])) as target:
        assert merge(names, target, shards).errors == 3
    assert merged.read_bytes() == before


CODES = ["invalid_type", "invalid_json", "prompt_too_long"]


def test_lines_beside_a_matrix(attempt: Any, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_bytes(b"".join(line + b"\n" for line in lines(PLACES["some"])))
    attempt(source, out, output_format="npy", task={"error_format": "flat"})
    beside = [json.loads(line) for line in (tmp_path / "out.ids.jsonl").read_bytes().splitlines()]
    assert [row["error_code"] for row in beside if row["error_code"]] == CODES


def test_columns_of_a_parquet_file(attempt: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_bytes(b"".join(line + b"\n" for line in lines(PLACES["some"])))
    attempt(source, out, output_format="parquet", task={"error_format": "flat"})
    assert [code for code in parquet.read_table(out)["error_code"].to_pylist() if code] == CODES
