"""`infer.ray`: callable classes over batches of rows, alone and under Ray Data; their rows are those of the commands."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import infer.ray
from infer.core.dataset.shapes import CHAT, arrow_type, fit
from infer.core.errors import ConfigError, UnknownArgument
from infer.core.jobs.jsonl import dumps

SMALL = {"dtype": "float32", "device": "cpu", "max_num_seqs": 8, "kv_cache_memory_bytes": 16 << 20}
POOLS = {"dtype": "float32", "device": "cpu"}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "max_tokens": 6}
#: Of all sorts, some of which are errors.
RECORDS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "one", "topic": {"deep": [1, None]}},
    {"id": 2, "prompt": "two", "n": 2, "logprobs": 2, "huge": 12345678901234567890123},
    {"prompt": "", "topic": None},
    {"id": "d", "prompt": ["x", "yy"], "max_tokens": 3, "prompt_logprobs": 0, "return_token_ids": True},
    {"prompt": "one", "seed": 7, "stop": ["e"]},
    {"prompt": "n", "max_tokens": -1},
    {"prompt": "words " * 200},
    {"question": "no prompt"},
    {"prompt_token_ids": [5, 6, 7], "temperature": 0, "é": "ü"},
    {"url": "/v1/completions", "custom_id": "c", "method": "POST", "body": {"prompt": "x"}},
]


@contextmanager
def made(kind: type[Any], model: Path, **settings: Any) -> Iterator[Any]:
    transform = kind(str(model), **settings)
    try:
        yield transform
    finally:
        transform.close()


def numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "row": i} for i, row in enumerate(rows)]


def lines_of(rows: list[Any]) -> bytes:
    return b"".join(dumps(row) + b"\n" for row in rows)


def table_of(rows: list[dict[str, Any]]) -> Any:
    """A pyarrow Table with a column for each field of any row."""
    pa = pytest.importorskip("pyarrow")
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})


Job = Callable[..., bytes]


@pytest.fixture
def job(call: Any, write_lines: Any, tmp_path: Path) -> Job:
    """The output of a command over these records."""

    def run(command: str, model: Path, records: list[dict[str, Any]], *flags: str) -> bytes:
        done = call(command, "--model", model, *flags, "--overwrite", write_lines(*records), tmp_path / "out.jsonl")
        assert done.exit_code in (0, 3), done.stderr
        return (tmp_path / "out.jsonl").read_bytes()

    return run


WRITES = ("--dtype", "float32", "--device", "cpu", "--max-num-seqs", "8", "--kv-cache-memory-bytes", "16MiB", "--seed", "3")


def test_rows_are_those_of_a_job_byte_for_byte(tiny_llama: Path, job: Job) -> None:
    records = RECORDS[:-1]  # a Batch line has a form of its own
    wanted = job("generate", tiny_llama, records, *WRITES, "--temperature", "0.9", "--max-tokens", "6")
    with made(infer.ray.Generate, tiny_llama, **SMALL, **SAMPLED, seed=3, index_field="row") as generate:
        rows = numbered(records)
        assert lines_of(generate(rows)) == wanted
        assert lines_of(generate(rows[:3]) + generate(rows[3:4]) + generate(rows[4:])) == wanted
        mixed = random.Random(1).sample(rows, len(rows))
        assert lines_of(sorted(generate(mixed), key=lambda row: row["index"])) == wanted


def test_conversations(tiny_llama: Path, job: Job) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    user = [{"role": "user", "content": "hello"}]
    records = [
        {"messages": user, "logprobs": True, "top_logprobs": 1},
        {"messages": [*user, {"role": "assistant", "content": "yes"}], "id": "b"},
        {"messages": user, "tools": tools, "tool_choice": "required", "max_tokens": 60},
        {"messages": "hello"},
    ]
    wanted = job("chat", tiny_llama, records, *WRITES, "--system", "Be brief.", "--max-tokens", "5")
    with made(infer.ray.Chat, tiny_llama, **SMALL, max_tokens=5, seed=3, index_field="row", system="Be brief.") as chat:
        assert lines_of(chat(numbered(records))) == wanted
        columns = chat(table_of(numbered(records[:3])))
        assert [error and error["code"] for error in columns["error"].to_pylist()[:2]] == [None, None]
        assert json.loads(columns["choices"][0].as_py()[0]["logprobs"])["content"]


def test_calls_of_functions_are_json() -> None:
    calls = [{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    row = {"choices": [{"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": calls}}], "usage": None}
    found = fit(row, CHAT)
    assert json.loads(found["choices"][0]["message"]["tool_calls"]) == calls
    pa = pytest.importorskip("pyarrow")
    assert pa.array([found], arrow_type(CHAT)).to_pylist() == [found]
    with pytest.raises(AssertionError, match="reasoning"):  # a field that a row may have has its column
        fit({"message": {"reasoning": "x"}}, {"message": CHAT["choices"][0]["message"]})


def test_vectors(tiny_bert: Path, job: Job) -> None:
    records = [{"input": "the cat"}, {"text": ["a dog", "sun"], "id": 1}, {"input": 5}, {"input": "rain", "encoding_format": "base64"}]
    wanted = job("embed", tiny_bert, records, "--dtype", "float32", "--device", "cpu")
    with made(infer.ray.Embed, tiny_bert, **POOLS, index_field="row") as embed:
        assert lines_of(embed(numbered(records))) == wanted
        pa = pytest.importorskip("pyarrow")
        both = [embed(pa.Table.from_pylist([row])) for row in numbered([{"input": "rain"}, records[3], {"input": None}])]
        assert both[0].schema.field("embedding").type == pa.list_(pa.float32())
        assert both[0]["embedding"] == both[1]["embedding"]
        assert both[0]["embedding"][0].as_py() == json.loads(wanted.splitlines()[0])["embedding"] or len(both[0]["embedding"][0]) == 32
        assert both[2]["embedding"].null_count == 1
        assert both[0].schema == both[2].schema.set(0, both[0].schema.field(0))


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_ranker"])
def test_scores(model: str, job: Job, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(model)
    records = [
        {"query": "a cat", "documents": ["the dog", "the cat"], "k": 1},
        {"text_1": "rain", "text_2": "sun"},
        {"query": "a cat", "documents": ["the dog", "the cat"], "top_n": 1, "return_documents": True},
        {"query": "alone"},
    ]
    wanted = job("score", folder, records, "--dtype", "float32", "--device", "cpu")
    with made(infer.ray.Score, folder, **POOLS, index_field="row") as score:
        assert lines_of(score(numbered(records))) == wanted
        columns = score(table_of(numbered(records)))
        assert [one is not None for one in columns["scores"].to_pylist()] == [True, False, False, False]
        assert json.loads(columns["results"][2].as_py()[0]["document"])["text"]
        assert columns["error"][3].as_py()["code"] == "missing_field"


def test_labels(tiny_llama: Path, job: Job) -> None:
    records = [{"prompt": "good or bad:"}, {"prompt": "x", "labels": ["u", "v"]}, {"prompt": 1}]
    wanted = job("classify", tiny_llama, records, *WRITES, "--label", "good", "--label", "bad")
    with made(infer.ray.Classify, tiny_llama, **SMALL, labels=["good", "bad"], index_field="row") as classify:
        assert lines_of(classify(numbered(records))) == wanted
        probs = classify(table_of(numbered(records[:2])))["probs"].to_pylist()
        assert [set(json.loads(one)) for one in probs] == [{"good", "bad"}, {"u", "v"}]


def test_without_an_index_the_content_decides(tiny_llama: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "same"}, {"prompt": "same"}, {"prompt": "same", "id": 1}, {"prompt": "other", "b": None}]
    with made(infer.ray.Generate, tiny_llama, **SMALL, **SAMPLED) as generate:
        first = generate(rows)
        assert all("index" not in row for row in first)
        assert first[0] == first[1]
        assert first[0]["choices"] != first[2]["choices"]
        assert generate(rows[::-1]) == first[::-1]
        assert [generate([row])[0] for row in rows] == first
        assert generate([{"b": None, "a": None, "prompt": "other"}])[0]["choices"] == first[3]["choices"]
    with made(infer.ray.Generate, tiny_llama, **SMALL, **SAMPLED, seed=1) as generate:
        assert generate(rows)[0] != first[0]


@pytest.mark.parametrize("value", [None, -1, 1.5, "3", True, 1 << 63])
def test_an_index_that_is_none(tiny_llama: Path, value: Any) -> None:
    with made(infer.ray.Generate, tiny_llama, **SMALL, max_tokens=2, index_field="row") as generate:
        bad, good = generate([{"prompt": "a", "row": value}, {"prompt": "a", "row": 1}])
        assert bad["error"]["param"] == "row"
        assert good["error"] is None


def test_every_form_says_the_same(tiny_llama: Path) -> None:
    pa, pd = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    rows = [
        {"id": "a", "prompt": "one", "max_tokens": 3, "seed": None, "weight": 0.5, "error": "theirs"},
        {"id": "b", "prompt": "two", "max_tokens": 4, "seed": 9, "weight": None, "error": None},
        {"id": "c", "prompt": "", "max_tokens": 4, "seed": 9, "weight": 2.0, "error": "x"},
    ]
    table = pa.Table.from_pylist(rows)
    with made(infer.ray.Generate, tiny_llama, **SMALL, temperature=0.9) as generate:
        plain, columns = generate(rows), generate(table)
        assert columns["extra_error"].to_pylist() == ["theirs", None, "x"]
        assert columns["weight"].to_pylist() == [0.5, None, 2.0]
        for row, choices, error in zip(plain, columns["choices"].to_pylist(), columns["error"].to_pylist(), strict=True):
            assert row["error"] == error
            for choice, wanted in zip(choices or [], row.get("choices", []), strict=True):
                assert {name: choice[name] for name in wanted} == wanted
        # As Ray Data makes batches of this table: the column of integers with a hole in it holds floats.
        frame = generate(table.to_pandas())
        assert isinstance(frame, pd.DataFrame)
        arrays = {name: table[name].to_pandas().to_numpy() for name in table.column_names}
        assert arrays["seed"].dtype == np.float64
        for other in (generate(arrays), pa.Table.from_pandas(frame, preserve_index=False)):
            assert other.column_names == columns.column_names
            for name in ("choices", "usage", "error"):
                assert other[name].type == columns[name].type
                assert other[name].to_pylist() == columns[name].to_pylist()


def test_the_columns_of_all_batches_are_one(tiny_llama: Path, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kept = pa.schema([("prompt", pa.string()), ("logprobs", pa.int64()), ("id", pa.int64())])
    batches = [[{"prompt": None, "id": 1}], [{"prompt": "a", "logprobs": 1, "id": None}], [{"prompt": "b", "id": 2}], []]
    with made(infer.ray.Generate, tiny_llama, **SMALL, max_tokens=2, keep_input=True) as generate:
        tables = [generate(pa.Table.from_pylist(batch, kept)) for batch in batches]
    whole = pa.concat_tables(tables)  # which takes tables of one schema alone
    assert whole["prompt"].to_pylist() == [None, "a", "b"]
    pq.write_table(whole, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet") == whole


def test_what_a_row_holds_stays_in_its_row(tiny_llama: Path) -> None:
    circle: dict[str, Any] = {"prompt": "a"}
    circle["self"] = circle
    with made(infer.ray.Generate, tiny_llama, **SMALL, max_tokens=2) as generate:
        rows = generate([circle, RECORDS[-1], {"prompt": "a", "x": float("nan")}, {"prompt": "a", "when": np.datetime64("2026-01-02")}])
        assert [row["error"] and row["error"]["code"] for row in rows] == ["internal", "unsupported", "invalid_json", None]
        assert "infer batch" in rows[1]["error"]["message"]
        assert generate([]) == []
        for wrong in (["text"], "text", 5, {"prompt": ["a"], "id": [1, 2]}):
            with pytest.raises(ConfigError, match="batch"):
                generate(wrong)


def test_columns_of_a_prompt(tiny_llama: Path) -> None:
    with made(infer.ray.Generate, tiny_llama, **SMALL, max_tokens=2, template="Say {{ word }}") as generate:
        assert generate([{"word": "hi"}])[0]["usage"]["prompt_tokens"] == len("Say hi")
    with made(infer.ray.Generate, tiny_llama, **SMALL, max_tokens=2, prompt_field="question") as generate:
        assert generate([{"question": "hi", "prompt": "x"}])[0]["extra"] == {"prompt": "x"}


@pytest.mark.parametrize(
    ("kind", "settings", "error", "said"),
    [
        (infer.ray.Generate, {"max_token": 5}, UnknownArgument, "did you mean 'max_tokens'"),
        (infer.ray.Embed, {"max_tokens": 5}, UnknownArgument, "max_tokens"),
        (infer.ray.Generate, {"temperature": -1}, ConfigError, "temperature"),
        (infer.ray.Generate, {"template": "x", "prompt_field": "y"}, ConfigError, "give one"),
        (infer.ray.Embed, {"embedding_dtype": "int4"}, ConfigError, "int8"),
        (infer.ray.Embed, {"truncate": "middle"}, ConfigError, "left or right"),
        (infer.ray.Classify, {"labels": ["a", "a"]}, ConfigError, "twice"),
        (infer.ray.Chat, {"tool_call_parser": "none such"}, ConfigError, "none such"),
    ],
)
def test_wrong_settings_are_told_before_a_model_is_looked_for(kind: Any, settings: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        kind("/no/such/model", **settings)


@pytest.mark.slow
def test_under_ray(tiny_llama: Path, tmp_path: Path, job: Job) -> None:
    ray = pytest.importorskip("ray")
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("ray.data")
    rows = [{"row": i, "prompt": f"word {i % 7}", "max_tokens": None if i % 3 else 4, "topic": f"t{i}"} for i in range(60)]
    rows[13]["prompt"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=10)
    wanted = job("generate", tiny_llama, [{**row, "row": i} for i, row in enumerate(rows)], *WRITES, "--max-tokens", "6")
    mark = tmp_path / "killed"

    class Killed(infer.ray.Generate):
        """One whose process ends in the middle of its rows, once: Ray starts another, and gives it the rows of the first again."""

        def __call__(self, batch: Any) -> Any:
            if 30 in batch["row"].to_pylist() and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        told = {"model": str(tiny_llama), **SMALL, "threads": 1, "max_tokens": 6, "seed": 3, "index_field": "row"}
        found = ray.data.read_parquet(str(tmp_path / "in.parquet"), override_num_blocks=4).map_batches(
            Killed, fn_constructor_kwargs=told, concurrency=2, batch_size=9, batch_format="pyarrow"
        )
        found.write_parquet(str(tmp_path / "out"))
    finally:
        ray.shutdown()
    written = pq.read_table(tmp_path / "out").to_pylist()
    answers = {row["index"]: row for row in written}
    assert mark.exists()
    assert sorted(row["index"] for row in written) == list(range(60))
    for line in wanted.splitlines():
        row = json.loads(line)
        answer = answers[row["index"]]
        assert answer["error"] == row["error"]
        assert answer["topic"] == f"t{row['index']}"
        if row["error"] is None:
            assert answer["choices"][0]["text"] == row["choices"][0]["text"]
            assert answer["usage"] == row["usage"]
