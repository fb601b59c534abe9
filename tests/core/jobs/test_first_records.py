"""What is wrong with all of the first records is said at once; --keep-going, a resumed run and mixed errors go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import ConfigError, TooManyErrors

Attempt = Callable[..., Any]


def lines(folder: Path, *records: Any) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_no_record_has_the_field(attempt: Attempt, tmp_path: Path) -> None:
    source = lines(tmp_path, *({"question": "a", "answer": 1} for _ in range(3)))
    with pytest.raises(
        ConfigError, match=r"--prompt-field questoin: all of the first 3 .* did you mean 'question'\? \(the first has: answer, question"
    ):
        attempt(source, tmp_path / "out", task={"prompt_field": "questoin"})
    assert not list(tmp_path.glob("out*"))
    assert attempt(source, tmp_path / "out", task={"prompt_field": "questoin"}, keep_going=True).stats.num_failed == 3
    source = lines(tmp_path, {"answer": 1}, {"question": "a"})
    assert attempt(source, tmp_path / "other", task={"prompt_field": "question"}).stats.num_failed == 1


@pytest.mark.parametrize(
    ("column", "says"),
    [("id;review", r"separated by ';': write it with commas"), ("id\treview", "--input-format tsv reads"), ("id", r"has: id\); --keep")],
)
def test_columns_that_something_else_separates(attempt: Attempt, tmp_path: Path, column: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        attempt(lines(tmp_path, {column: "a"}), tmp_path / "out", task={"prompt_field": "review"})


def test_enough_records_fail_with_one_code(attempt: Attempt, tmp_path: Path) -> None:
    bad = {"prmpt": "a"}
    with pytest.raises(TooManyErrors, match=r"first 100 records have all failed with missing_field \(first on line 1: .*--keep-going"):
        attempt(lines(tmp_path, *[bad] * 101, {"prompt": "a"}), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    for few in ([bad] * 99, [bad] * 60 + [{"prompt": 7}] * 60, [bad] * 99 + [{"prompt": "a"}] + [bad] * 99):
        done = attempt(lines(tmp_path, *few), tmp_path / "out", overwrite=True)
        assert done.stats.num_failed >= 99
    done = attempt(lines(tmp_path, *[bad] * 101), tmp_path / "out", overwrite=True, keep_going=True)
    assert done.stats.num_failed == 101


def test_failures_of_the_engine_count_too(attempt: Attempt, tmp_path: Path) -> None:
    source = lines(tmp_path, *({"prompt": f"{i}", "max_tokens": 200} for i in range(150)))
    small = {"kv_tokens": 50}
    with pytest.raises(TooManyErrors, match="all failed with kv_capacity"):
        attempt(source, tmp_path / "out", engine=small)
    done = attempt(source, tmp_path / "out", engine=small, resume=True)
    assert done.stats.num_failed == 150
    assert (tmp_path / "out").read_bytes().count(b"\n") == 150
