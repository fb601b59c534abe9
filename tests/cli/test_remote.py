"""IN and OUT in an object store: equal bytes after any kill, and never a part of an object under OUT's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infer.core.jobs.output import faults

from ..core.remote.bucket import Bucket, bucket, s3_proxy

__all__ = ["bucket", "s3_proxy"]  # fixtures

LINES = [
    *({"prompt": f"record {i}", "id": f"r{i}", "max_tokens": 1 + i % 5} for i in range(12)),
    b"not json",
    {"prompt": "x" * 600},
]


@pytest.fixture
def lines() -> bytes:
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in LINES)


@pytest.fixture
def expected(call: Any, tiny: list[str], tmp_path: Path, lines: bytes) -> Callable[..., bytes]:
    """expected(*argv) -> the bytes that a local run writes."""

    def run(*argv: Any, command: str = "generate", suffix: str = ".jsonl") -> bytes:
        source, out = tmp_path / "in.jsonl", tmp_path / f"local{suffix}"
        source.write_bytes(lines)
        result = call(command, *tiny, source, out, *argv)
        assert result.exit_code in (0, 3), result.stderr
        return out.read_bytes()

    return run


def state(tmp_path: Path) -> list[Path]:
    """What is left of runs here."""
    return [path for path in (tmp_path / "state").rglob("*") if path.is_file()]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv"])
def test_from_and_to_a_bucket(call: Any, tiny: list[str], bucket: Bucket, lines: bytes, expected: Any, suffix: str, tmp_path: Path) -> None:
    alone = expected(suffix=suffix)
    source = bucket.put("dir/in.jsonl", lines)
    argv = [*tiny, source, bucket(f"dir/out{suffix}"), "--errors", bucket("dir/failed.jsonl"), "--stats", bucket("dir/stats.json")]
    result = call("generate", *argv)
    assert result.exit_code == 3, result.stderr
    rows = [f"dir/out{suffix}.rows.jsonl.zst"] * (suffix == ".csv")
    out = f"dir/out{suffix}"
    assert bucket.keys == ["dir/failed.jsonl", "dir/in.jsonl", out, f"{out}.job.json", *rows, "dir/stats.json"]
    assert bucket.get(out) == alone
    assert len(bucket.get("dir/failed.jsonl").splitlines()) == 2
    assert json.loads(bucket.get("dir/stats.json"))["records"]["failed"] == 2
    assert state(tmp_path) == []
    again = call("generate", *argv)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    done = call("generate", *argv, "--resume")
    assert done.exit_code == 3, done.stderr
    assert "nothing to do" in done.stderr
    # Records that came since are answered; what was there is kept.
    bucket.put("dir/in.jsonl", lines + b'{"prompt": "more", "max_tokens": 2}\n')
    more = call("generate", *argv, "--resume")
    assert more.exit_code == 3, more.stderr
    assert len(bucket.get("dir/failed.jsonl").splitlines()) == 2
    assert state(tmp_path) == []
    # Another input is not taken for it.
    bucket.put("dir/in.jsonl", lines.replace(b"record 3", b"another"))
    other = call("generate", *argv, "--resume")
    assert other.exit_code == 2
    assert "the input changed" in other.stderr
    assert state(tmp_path) == []


def test_kills_cost_nothing(bucket: Bucket, launch: Any, tiny: list[str], lines: bytes, expected: Any, tmp_path: Path) -> None:
    """One job, killed while it answers, between its note and OUT, and when OUT is in its place and nothing knows it yet."""
    alone = expected()
    source = bucket.put("in.jsonl", lines)
    argv = ["generate", "-q", *tiny, source, bucket("out.jsonl"), "--resume"]
    for point in ("committed:1", "part:2", "sent", ""):
        child = launch(*argv, env={"INFER_FAULT": point})
        said = child.communicate(timeout=300)[1].decode()
        assert child.returncode == (-9 if point else 3), (point, said)
        # What is under OUT's name is nothing, or all of it.
        there = "out.jsonl" in bucket.keys
        assert there == (point in ("sent", ""))
        assert not there or bucket.get("out.jsonl") == alone
    assert bucket.keys == ["in.jsonl", "out.jsonl", "out.jsonl.job.json"]
    assert bucket.uploads == []
    assert state(tmp_path) == []


@pytest.mark.parametrize("point", ["publish", "beside", "published", "cleaned", "part", "beside-sent", "sent"])
def test_an_interrupt_costs_nothing(
    call: Any, tiny: list[str], bucket: Bucket, lines: bytes, expected: Any, point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = expected()
    argv = ["generate", *tiny, bucket.put("in.jsonl", lines), bucket("out.jsonl")]

    def interrupt(passed: str) -> None:
        if passed == point:
            raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(faults, "fault", interrupt)
        stopped = call(*argv)
    assert stopped.exit_code != 3
    assert ("out.jsonl" in bucket.keys) == (point == "sent")
    refused = call(*argv)
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    done = call(*argv, "--resume")
    assert done.exit_code == 3, done.stderr
    assert bucket.get("out.jsonl") == alone
    assert bucket.keys == ["in.jsonl", "out.jsonl", "out.jsonl.job.json"]
    assert state(tmp_path) == []


def test_an_output_of_somebody_else(
    call: Any, tiny: list[str], bucket: Bucket, lines: bytes, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not there when the run began, and is left alone."""
    alone = expected()
    argv = ["generate", *tiny, bucket.put("in.jsonl", lines), bucket("out.jsonl")]
    with monkeypatch.context() as during:
        during.setattr(faults, "fault", lambda passed: bucket.put("out.jsonl", b"precious") if passed == "publish" else None)
        refused = call(*argv)
    assert refused.exit_code == 74
    assert "by someone else" in refused.stderr
    assert bucket.get("out.jsonl") == b"precious"
    assert call(*argv, "--resume").exit_code == 74
    assert bucket.get("out.jsonl") == b"precious"
    replaced = call(*argv, "--overwrite")
    assert replaced.exit_code == 3, replaced.stderr
    assert bucket.get("out.jsonl") == alone


def test_refusals(call: Any, tiny: list[str], bucket: Bucket, lines: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    source = bucket.put("in.jsonl", lines)
    for names, said in (
        ([bucket("none.jsonl"), bucket("out.jsonl")], "there is no such object"),
        (["s3://no-such-bucket-here/a.jsonl", bucket("out.jsonl")], "there is no such bucket"),
        ([source, source], "are the same file"),
        ([source, bucket("")], "is a folder"),
        ([source, "https://127.0.0.1:9/out.jsonl"], "is only read"),
        ([source, "ftp://host/out.jsonl"], "is not served"),
        ([source, bucket("out.partial")], "ends in .partial"),
        ([source, "out.jsonl", "--errors", bucket("e.jsonl")], "lies elsewhere and OUT does not"),
        ([source, bucket("out.jsonl"), "--trace", bucket("t.jsonl")], "needs a local file"),
        ([source, bucket("out.jsonl"), "--stats", source], "is the input or the output"),
        (["--input", bucket("x*.jsonl"), bucket("out.jsonl")], "no file matches"),
    ):
        result = call("generate", *tiny, *names)
        assert result.exit_code == 2, result.stderr
        assert said in result.stderr
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    result = call("generate", *tiny, source, bucket("out.jsonl"))
    assert "no access" in result.stderr
    assert "AWS_PROFILE" in result.stderr
    S3FileSystem.clear_instance_cache()
    assert bucket.keys == ["in.jsonl"]


def test_shards_and_a_model_in_a_bucket(
    call: Any,
    tiny: list[str],
    tiny_llama: Path,
    bucket: Bucket,
    lines: bytes,
    expected: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = expected()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in tiny_llama.iterdir():
        bucket.put(f"models/{tiny_llama.name}/{path.name}", path.read_bytes())
    source = bucket.put("in.jsonl", lines)
    for i in range(2):
        argv = ["-m", bucket(f"models/{tiny_llama.name}"), *tiny[2:], source, bucket(f"part-{i}.jsonl"), "--shard", f"{i}/2"]
        assert call("generate", *argv).exit_code == 3
    shards = [bucket(f"part-{i}.jsonl") for i in range(2)]
    missing = call("merge", bucket("out.jsonl"), *shards[:1], bucket("part-2.jsonl"))
    assert missing.exit_code == 2
    assert "does not exist" in missing.stderr

    def interrupt(passed: str) -> None:
        if passed == "beside-sent":
            raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(faults, "fault", interrupt)
        call("merge", bucket("out.jsonl"), *shards)
    assert "out.jsonl" not in bucket.keys
    merged = call("merge", bucket("out.jsonl"), *shards)
    assert merged.exit_code == 3, merged.stderr
    assert bucket.get("out.jsonl") == alone
    assert state(tmp_path) == []
    bucket.put("part-1.jsonl", bucket.get("part-1.jsonl").replace(b"index", b"jndex", 1))
    assert call("merge", tmp_path / "local.jsonl", *shards).exit_code == 2
