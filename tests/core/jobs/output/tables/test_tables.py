"""Tables as other people's readers see them. Torn and lost files: ../../test_recovery.py."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet as pq

from infer.core.errors import ConfigError
from infer.core.jobs.jsonl import dumps
from infer.core.jobs.output.output_format import format_of
from infer.core.jobs.output.sinks.table_sink import TableSink
from infer.core.jobs.output.table_output import ROWS_SUFFIX, TableOutput
from infer.core.jobs.output.tables import columns, parquet_file
from infer.core.jobs.row import Row

ERROR = {"code": "prompt_too_long", "message": 'too "long",\nby 3', "param": None, "retryable": False}
BIG = 10**30


def answered(index: int, text: str = "yes", *more: str, **extra: Any) -> dict[str, Any]:
    choices = [{"index": i, "text": one, "finish_reason": "stop"} for i, one in enumerate((text, *more))]
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return {"index": index, "id": f"r{index}", "choices": choices, "usage": usage, "error": None, **({"extra": extra} if extra else {})}


def failed(index: int, **extra: Any) -> dict[str, Any]:
    return {"index": index, "error": ERROR, **({"extra": extra} if extra else {})}


def written(path: Path, kind: str, *rows: dict[str, Any], command: str = "generate", compression: str = "none") -> Path:
    output = TableOutput(str(path), sink=TableSink(kind, compression))
    output.command = command
    output.begin({})
    output.write([Row(i, dumps(row)) for i, row in enumerate(rows)])
    output.finish()
    output.close()
    kept = path.with_name(path.name + ROWS_SUFFIX).read_bytes()
    assert (zstandard.ZstdDecompressor().decompressobj().decompress(kept) if rows else kept) == b"".join(dumps(row) + b"\n" for row in rows)
    return path


def read_csv(data: bytes, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), delimiter=delimiter))


HARD = [
    'a "quoted", text',
    "lines\nand\r\nmore\r",
    " blanks ",
    "",
    "é€😀\u2028",
    "tab\there",
    "null",
    "=1+1",
    "\ufeffmark",
    "\u0000",
]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_texts_come_back_as_they_were(tmp_path: Path, kind: str) -> None:
    out = written(tmp_path / "out", kind, *(answered(i, text, note=text) for i, text in enumerate(HARD)))
    rows = pq.read_table(out).to_pylist() if kind == "parquet" else read_csv(out.read_bytes(), "\t" if kind == "tsv" else ",")
    assert [row["text"] for row in rows] == HARD
    assert [row["note"] for row in rows] == HARD
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(len(HARD))]


def test_columns_and_errors_are_in_their_places(tmp_path: Path) -> None:
    out = written(tmp_path / "out", "csv", answered(0, stars="5"), failed(1, note="n", stars=None), answered(2, "a", "b"))
    lines = out.read_text().splitlines(keepends=True)
    assert lines[0] == (
        "index,id,stars,note,text,finish_reason,choices,prompt_tokens,completion_tokens,total_tokens,"
        "error_code,error_message,error_param,error_retryable\n"
    )
    rows = read_csv(out.read_bytes())
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert rows[1] == {**dict.fromkeys(rows[0], ""), "index": "1", "note": "n", "error_code": ERROR["code"],
                       "error_message": ERROR["message"], "error_retryable": "false"}  # fmt: skip
    assert rows[0]["choices"] == ""
    assert [choice["text"] for choice in json.loads(rows[2]["choices"])] == ["a", "b"]


def test_types_hold_every_value_of_their_column(tmp_path: Path) -> None:
    values: dict[str, list[Any]] = {
        "whole": [1, 2**62, None],
        "number": [1, 2.5, -(2**53)],
        "rounded": [2**53 + 1, 0.5, None],
        "yes": [True, None, False],
        "big": [BIG, 1, -BIG],
        "unsigned": [2**64 - 1, 1, 2],
        "mixed": ["a", 1, {"b": [None, "é"]}],
        "nested": [{"x": BIG}, [], None],
        "words": [["a"], [], ["b", "c"]],
        "ints": [[1], [2, 3], None],
        "floats": [[1], [2.5], []],
        "holes": [[1, None], [2], None],
        "nothing": [None, None, None],
    }
    rows = [answered(i, **{name: column[i] for name, column in values.items()}) for i in range(3)]
    table = pq.read_table(written(tmp_path / "out", "parquet", *rows))
    types = {name: table.schema.field(name).type for name in values}
    assert types == {
        "whole": pa.int64(), "number": pa.float64(), "rounded": pa.string(), "yes": pa.bool_(), "big": pa.string(),
        "unsigned": pa.string(), "mixed": pa.string(), "nested": pa.string(), "words": pa.list_(pa.string()),
        "ints": pa.list_(pa.int64()), "floats": pa.list_(pa.float64()), "holes": pa.string(), "nothing": pa.string(),
    }  # fmt: skip
    for name, column in values.items():
        for value, cell in zip(column, table[name].to_pylist(), strict=True):
            if types[name] != pa.string() or value is None or isinstance(value, str):
                assert cell == value
            else:
                assert json.loads(cell) == value
    again = read_csv(written(tmp_path / "csv", "csv", *rows).read_bytes())
    assert [row["big"] for row in again] == [str(BIG), "1", str(-BIG)]
    assert again[2]["mixed"] == '{"b":[null,"é"]}'


def test_names_that_are_taken_get_another(tmp_path: Path) -> None:
    extra = {"text": 1, "extra_text": 2, "index": 3, "error_code": 4, "": 5, "a,b\n": 6, "content": 7}
    (row,) = read_csv(written(tmp_path / "out", "csv", {**answered(0, "answer"), "extra": extra}).read_bytes())
    assert row["text"] == "answer"
    assert (row["index"], row["error_code"]) == ("0", "")
    assert row["a,b\n"] == "6"
    assert row["content"] == "7"  # only a conversation has such a column
    assert sorted(value for name, value in row.items() if name.startswith("extra_")) == ["1", "2", "3", "4", "5"]


def test_more_fields_than_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_EXTRA", 3)
    rows = read_csv(written(tmp_path / "out", "csv", answered(0, **{f"c{i}": i for i in range(10)}), answered(1, c0=0, d=1)).read_bytes())
    assert [name for name in rows[0] if name[0] in "cd" and name[1:].isdigit()] == ["c0", "c1", "c2"]
    assert json.loads(rows[0]["extra"]) == {f"c{i}": i for i in range(3, 10)}
    assert json.loads(rows[1]["extra"]) == {"d": 1}


def test_a_hundred_thousand_fields_of_one_record(tmp_path: Path) -> None:
    (row,) = pq.read_table(written(tmp_path / "out", "parquet", answered(0, **{f"c{i}": i for i in range(100_000)}))).to_pylist()
    assert len(json.loads(row["extra"])) == 100_000 - columns.MAX_EXTRA


@pytest.mark.parametrize("command", ["generate", "chat", "beam", "embed", "score", "classify"])
def test_rows_that_all_failed_and_none_at_all_have_the_columns_of_others(tmp_path: Path, command: str) -> None:
    none = written(tmp_path / "none", "csv", command=command).read_text()
    bad = read_csv(written(tmp_path / "bad", "csv", failed(0), command=command).read_bytes())
    assert set(none.strip().split(",")) <= set(bad[0])
    schema = pq.read_schema(written(tmp_path / "none.parquet", "parquet", command=command))
    assert schema.names == none.strip().split(",")
    assert schema.field("total_tokens").type == pa.int64()


def test_conversations_and_batch_lines(tmp_path: Path) -> None:
    call = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    message = {"role": "assistant", "content": None, "tool_calls": call}
    chat = {"index": 0, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": {}, "error": None}
    body = {
        "id": "infer-ab-1",
        "object": "x",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "text": "t", "finish_reason": "stop", "logprobs": None}],
    }
    batch = {"id": "infer-ab-1", "custom_id": "c1", "response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}
    response = {"status_code": 400, "request_id": "r", "body": {"error": {"type": "e", **ERROR}}}
    error = {"code": ERROR["code"], "message": ERROR["message"]}
    bad = {"id": "infer-ab-2", "custom_id": "c2", "response": response, "error": error}
    said = {"type": "message", "content": [{"type": "output_text", "text": "a "}, {"type": "output_text", "text": "b"}]}
    body = {"id": "x", "object": "response", "status": "completed", "output": [said], "tools": [], "usage": {"input_tokens": 3}}
    responses = {"id": "infer-ab-3", "custom_id": "c3", "response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}
    rows = read_csv(written(tmp_path / "out", "csv", chat, batch, bad, responses, command="chat").read_bytes())
    assert json.loads(rows[0]["tool_calls"]) == call
    assert rows[0]["content"] == ""
    assert (rows[1]["index"], rows[1]["custom_id"], rows[1]["text"]) == ("1", "c1", "t")
    assert (rows[2]["index"], rows[2]["custom_id"], rows[2]["error_code"]) == ("2", "c2", ERROR["code"])
    assert (rows[3]["content"], rows[3]["status"], rows[3]["input_tokens"]) == ("a b", "completed", "3")
    assert json.loads(rows[3]["output"]) == [said]
    assert not {"model", "tools", "logprobs"} & set(rows[0])


def test_row_groups_end_where_the_rows_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "_MAX_GROUP", 4)
    rows = [answered(i, "x" * i) for i in range(10)]
    one, other = (written(tmp_path / name, "parquet", *rows).read_bytes() for name in ("a", "b"))
    assert one == other
    assert pq.ParquetFile(tmp_path / "a").num_row_groups == 3
    assert pq.read_table(tmp_path / "a")["text"].to_pylist() == ["x" * i for i in range(10)]


def test_compressed(tmp_path: Path) -> None:
    rows = [answered(i) for i in range(3)]
    plain = written(tmp_path / "a", "csv", *rows).read_bytes()
    assert gzip.decompress(written(tmp_path / "b", "csv", *rows, compression="gzip").read_bytes()) == plain
    assert zstandard.decompress(written(tmp_path / "c", "csv", *rows, compression="zstd").read_bytes()) == plain
    with pytest.raises(ConfigError, match="compressed already"):
        TableSink("parquet", "gzip")


def test_the_name_says_the_format() -> None:
    names = {"a.csv": "csv", "a.CSV.gz": "csv", "a.tsv.zst": "tsv", "a.tab": "tsv", "a.pq": "parquet", "a.parquet": "parquet"}
    names |= {"a": "jsonl", "-": "jsonl", "a.jsonl.gz": "jsonl", "csv": "jsonl", "a.gz": "jsonl", "/dev/stdout": "jsonl"}
    assert {name: format_of(name, vectors=False) for name in names} == names
    assert format_of("a.npy", vectors=True) == "npy"
    assert format_of("a.npy", "jsonl", vectors=False) == "jsonl"
    for name, asked in (("a.npy", "auto"), ("a", "safetensors")):
        with pytest.raises(ConfigError, match="infer embed"):
            format_of(name, asked, vectors=False)
    with pytest.raises(ConfigError, match="did you mean 'csv'"):
        format_of("a", "csvv", vectors=False)
