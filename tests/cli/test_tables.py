"""Answers as tables: --output-format, names of OUT, and the promises for them."""

from __future__ import annotations

import csv
import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet as pq

REVIEWS = 'id,review,stars\n1,"Great, ""really""",5\n2,Awful,1\n3,,2\n4,"two\nlines",3\n'


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_text(REVIEWS)
    return path


@pytest.fixture
def answer(call: Any, tiny: list[str]) -> Any:
    """answer(IN, OUT, ...): `infer generate` of the column `review`."""
    return lambda *argv: call("generate", *tiny, "--prompt-field", "review", "--max-tokens", "4", "--temperature", "0", *argv)


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_csv_in_and_a_table_out(answer: Any, reviews: Path, tmp_path: Path, suffix: str) -> None:
    out, errors = tmp_path / f"out.{suffix}", tmp_path / "errors"
    ran = answer(reviews, out, "--errors", errors)
    assert ran.exit_code == 3, ran.output
    assert f"is written as {suffix}, as its name says (--output-format jsonl" in ran.stderr
    rows = rows_of(out)
    assert [row["id"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["stars"] for row in rows] == ["5", "1", "2", "3"]
    assert [bool(row["error_code"]) for row in rows] == [False, False, True, False]
    lines = tmp_path / "out.jsonl"
    assert answer(reviews, lines, "-q").exit_code == 3
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["text"] or None for row in rows] == [row["choices"][0]["text"] if "choices" in row else None for row in told]
    assert json.loads(errors.read_text())["id"] == "3"
    again = tmp_path / f"again.{suffix}"
    assert "written as" not in answer(reviews, again, "-q").stderr
    assert again.read_bytes() == out.read_bytes()


def test_jsonl_under_any_name(answer: Any, reviews: Path, tmp_path: Path) -> None:
    assert "out.xlsx holds JSON lines, whatever its name says" in answer(reviews, tmp_path / "out.xlsx", "--limit", "1").stderr
    out = tmp_path / "out.csv"
    answer(reviews, out, "--output-format", "jsonl")
    assert len([json.loads(line) for line in out.read_text().splitlines()]) == 4
    assert "--output-format" not in answer(reviews, tmp_path / "x", "--output-format", "csv").stderr
    assert len(rows_of(tmp_path / "x")) == 4


@pytest.mark.parametrize(
    ("out", "options", "says"),
    [
        ("-", ["--output-format", "csv"], "needs an output file"),
        ("out.parquet.gz", [], "compressed already"),
        ("out.npy", [], "infer embed makes"),
        ("out.rows.jsonl.zst", [], "files that belong to outputs"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_looked_for(
    call: Any, reviews: Path, tmp_path: Path, out: str, options: list[str], says: str
) -> None:
    ran = call("generate", "--model", "/nowhere", *options, reviews, out if out == "-" else tmp_path / out)
    assert (ran.exit_code, says in ran.stderr, "/nowhere" in ran.stderr) == (2, True, False), ran.output


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_finished_table_is_gone_on_with(answer: Any, reviews: Path, tmp_path: Path, suffix: str) -> None:
    """Appended records, failed ones that were mended, and chosen ones, each as a run from the start would have them."""
    out, whole = tmp_path / f"out.{suffix}", tmp_path / f"whole.{suffix}"
    assert answer(reviews, out, "-q").exit_code == 3
    assert "finished already" in answer(reviews, out, "--resume").stderr
    with reviews.open("a") as file:
        file.write("5,more,4\n")
    ran = answer(reviews, out, "--resume")
    assert ran.exit_code == 3, ran.output
    assert answer(reviews, whole, "-q").exit_code == 3
    assert out.read_bytes() == whole.read_bytes()
    assert "exists" in answer(reviews, out).stderr
    reviews.write_text(reviews.read_text().replace("3,,2", "3,mended,2"))
    assert answer(reviews, out, "-q", "--retry-errors").exit_code == 0
    assert answer(reviews, out, "-q", "--redo", "finish_reason=length").exit_code == 0
    assert answer(reviews, whole, "-q", "--overwrite").exit_code == 0
    assert out.read_bytes() == whole.read_bytes()
    kept = tmp_path / f"out.{suffix}.rows.jsonl.zst"
    data = kept.read_bytes()
    kept.write_bytes(data + data)
    assert "is not the file of rows" in answer(reviews, out, "--resume").stderr
    kept.unlink()
    assert "rows.jsonl.zst' is not; put it back" in answer(reviews, out, "--resume").stderr
    kept.write_bytes(data)
    out.write_bytes(out.read_bytes()[:-1])
    assert "changed after its job finished" in answer(reviews, out, "--resume").stderr


def test_shards_become_the_table_of_a_single_run(answer: Any, call: Any, reviews: Path, tmp_path: Path) -> None:
    whole = {suffix: tmp_path / f"whole.{suffix}" for suffix in ("csv", "parquet", "jsonl")}
    for path in whole.values():
        assert answer(reviews, path, "-q").exit_code == 3
    parts = [tmp_path / "part-0.csv", tmp_path / "part-1.jsonl"]
    for i, part in enumerate(parts):
        answer(reviews, part, "-q", "--shard", f"{i}/2")
    for suffix, path in whole.items():
        out = tmp_path / f"merged.{suffix}"
        assert call("merge", out, *parts).exit_code == 3
        assert out.read_bytes() == path.read_bytes()
        assert call("merge", out, *parts).exit_code == 3  # it is that already
        assert "finished already" in answer(reviews, out, "--resume").stderr
    (tmp_path / "part-0.csv.rows.jsonl.zst").unlink()
    assert "put it back" in call("merge", tmp_path / "other.csv", *parts).stderr


def test_embeddings_and_several_choices(call: Any, answer: Any, tiny: list[str], reviews: Path, tmp_path: Path) -> None:
    assert answer(reviews, tmp_path / "n.csv", "-q", "--n", "2", "--temperature", "1").exit_code == 3
    row = rows_of(tmp_path / "n.csv")[0]
    choices = json.loads(row["choices"])
    assert len(choices) == 2
    assert choices[0]["text"] == row["text"]
    embed = ["embed", *tiny[:4], "--pooling", "last", "--prompt-field", "review", "-q", reviews]
    assert call(*embed, tmp_path / "v.csv").exit_code == 3
    assert call(*embed, tmp_path / "v.npy").exit_code == 3
    vectors = [json.loads(row["embedding"] or "[]") for row in rows_of(tmp_path / "v.csv")]
    assert [len(vector) for vector in vectors] == [len(vectors[0]), len(vectors[0]), 0, len(vectors[0])]
    assert (tmp_path / "v.npy").read_bytes().startswith(b"\x93NUMPY")
    assert (tmp_path / "v.npy.ids.jsonl").exists()


def test_killed_while_the_table_is_made(program: Any, tiny: list[str], environment: dict[str, str], reviews: Path, tmp_path: Path) -> None:
    command = ["generate", *tiny, "--prompt-field", "review", "--max-tokens", "4", reviews]
    assert program(*command, tmp_path / "whole.csv", "-q", env=environment).returncode == 3
    for fault in ("made", "published"):
        killed = program(*command, tmp_path / "out.csv", "-q", "--resume", env={**environment, "INFER_FAULT": fault})
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert program(*command, tmp_path / "out.csv", "--resume", env=environment).returncode == 3
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    names = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out"))
    assert names == ["out.csv", "out.csv.job.json", "out.csv.rows.jsonl.zst"]
