"""`infer merge`: the parts of a sharded job put together."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

#: A job that has all kinds of rows.
LINES: list[Any] = [
    *({"prompt": f"record {i}", "id": f"r{i}", "max_tokens": 1 + i % 5} for i in range(20)),
    b"not json",
    {"prompt": "x" * 600},
    {"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": {"prompt": "batch", "max_tokens": 2}},
    {"prompt": "last", "max_tokens": 3},
]


@pytest.fixture
def sharded(call: Any, tiny_llama: Path, tmp_path: Path, write_lines: Any) -> Any:
    """sharded(3, ".gz", *more argv) -> names of the shards, and of what a single run wrote."""

    def run(n: int, suffix: str = "", *more: str, lines: list[Any] = LINES) -> tuple[list[Path], Path]:
        path = write_lines(*lines)
        argv = ["-m", tiny_llama, "--temperature", "0.8", *more, path]
        single = tmp_path / f"single{suffix}"
        assert call("generate", *argv, single).exit_code in (0, 3)
        shards = [tmp_path / f"part-{i}{suffix}" for i in range(n)]
        for i, shard in enumerate(shards):
            result = call("generate", *argv, shard, "--shard", f"{i}/{n}")
            assert result.exit_code in (0, 3), result.stderr
        return shards, single

    return run


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_three_shards_are_the_single_run(call: Any, tmp_path: Path, sharded: Any, suffix: str) -> None:
    shards, single = sharded(3, suffix)
    result = call("merge", tmp_path / f"out{suffix}", *shards)
    assert result.exit_code == 3, result.stderr
    assert result.stderr == "24 records of 3 shards, 2 failed\n"
    assert (tmp_path / f"out{suffix}").read_bytes() == single.read_bytes()


def test_a_part_of_the_input(call: Any, tmp_path: Path, sharded: Any) -> None:
    shards, single = sharded(3, "", "--offset", "4", "--limit", "9")
    result = call("merge", tmp_path / "out", *reversed(shards))
    assert (result.exit_code, result.stderr) == (0, "9 records of 3 shards\n")
    assert (tmp_path / "out").read_bytes() == single.read_bytes()


def test_stdout_and_a_glob_with_notes(program: Any, tmp_path: Path, sharded: Any) -> None:
    _, single = sharded(2)
    for name in ("-", "/dev/stdout"):
        done = program("merge", "-q", name, *sorted(tmp_path.glob("part-*")))
        assert (done.returncode, done.stderr) == (3, b"")
        assert done.stdout == single.read_bytes()


def test_refusals(call: Any, tmp_path: Path, sharded: Any) -> None:
    (a, b, c), single = sharded(3)
    other = single.with_name("other")
    other.write_bytes(b"precious")
    before = sorted(path.name for path in tmp_path.iterdir())
    for argv, said in (
        ([tmp_path / "out", a, b], "2/3 not given"),
        ([tmp_path / "out", a, b, c, b], "are both shard 1/3"),
        ([tmp_path / "out", a, b, single], "one is of 1 parts, the other of 3"),
        ([tmp_path / "out", a, b, tmp_path / "none"], "'" + str(tmp_path / "none") + "' does not exist"),
        ([other, a, b, c], "--overwrite"),
        ([a, a, b, c, "--overwrite"], "same file"),
        ([tmp_path / "no" / "out", a, b, c], "there is no folder"),
        ([tmp_path, a, b, c], "is a folder"),
        ([tmp_path / "out"], "Missing argument"),
        ([], "Missing argument"),
    ):
        result = call("merge", *argv)
        assert result.exit_code == 2, (argv, result.stderr)
        assert said in result.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert other.read_bytes() == b"precious"


def test_shards_of_other_settings_are_foreign(call: Any, tmp_path: Path, sharded: Any, tiny_llama: Path) -> None:
    (a, b, c), _ = sharded(3)
    argv = ["generate", "-m", tiny_llama, "--temperature", "0.7", tmp_path / "in.jsonl", "--shard", "1/3", "--overwrite", b]
    assert call(*argv).exit_code == 0
    result = call("merge", tmp_path / "out", a, b, c)
    assert result.exit_code == 2
    assert f"'{b}' does not belong with '{a}': they are of different jobs" in result.stderr


def test_messages_as_objects(call: Any, tmp_path: Path, sharded: Any) -> None:
    shards, _ = sharded(2)
    told = json.loads(call("merge", "--log-format", "json", tmp_path / "out", *shards).stderr)
    assert (told["event"], told["records"], told["errors"], told["shards"]) == ("summary", 24, 2, 2)
    told = json.loads(call("merge", "--log-format", "json", tmp_path / "out", *shards[:1]).stderr)
    assert (told["event"], told["level"], told["exit_code"]) == ("error", "error", 2)


def test_a_killed_merge_is_begun_again(program: Any, tmp_path: Path, sharded: Any) -> None:
    """Wherever it was killed, and when it had finished too. Nothing else takes what it left for its own."""
    shards, single = sharded(2)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INFER_")}
    for point in ("begin", "write", "committed", "publish", "beside", "published", "cleaned"):
        out = tmp_path / point
        assert program("merge", out, *shards, env={**clean, "INFER_FAULT": point}).returncode == -9
        assert out.exists() == (point in ("published", "cleaned"))
        if point == "committed":
            for more in ([], ["--resume"], ["--retry-errors"]):
                refused = program("generate", "-m", "none", tmp_path / "in.jsonl", out, *more)
                assert refused.returncode == 2
                assert b"infer merge" in refused.stderr or (more == ["--retry-errors"] and b"is not there" in refused.stderr), refused
        done = program("merge", out, *shards)
        assert (done.returncode, done.stderr) == (3, b"24 records of 2 shards, 2 failed\n"), point
        assert out.read_bytes() == single.read_bytes()
        assert sorted(path.name for path in tmp_path.glob(f"{point}*")) == [point, f"{point}.job.json"]


def test_a_merge_throws_no_answers_away(program: Any, tmp_path: Path, sharded: Any, tiny_llama: Path) -> None:
    shards, _ = sharded(2)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("INFER_")}
    argv = ["generate", "-m", tiny_llama, tmp_path / "in.jsonl", tmp_path / "out"]
    assert program(*argv, env={**clean, "INFER_FAULT": "committed"}).returncode == -9
    refused = program("merge", tmp_path / "out", *shards)
    assert refused.returncode == 2
    assert b"finish it with its own command and --resume" in refused.stderr
    assert program("merge", "--overwrite", tmp_path / "out", *shards).returncode == 3
