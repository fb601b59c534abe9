"""Two runs and one output: the second goes away at once, and a dead holder is no obstacle."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def slow(write_lines: Any, hold: Any) -> Path:
    """A job that does not end."""
    path: Path = write_lines({"prompt": "a"}, name="slow.jsonl")
    hold(path, 0)
    return path


def test_the_second_run_names_the_first_and_ends(
    launch: Any, program: Any, wait_for: Any, tiny: list[str], slow: Path, write_lines: Any, tmp_path: Path
) -> None:
    out, lock = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial.lock"
    first = launch("generate", *tiny, slow, out)
    wait_for(lambda: lock.exists() and lock.stat().st_size, first)
    assert not (tmp_path / "out.jsonl.partial").exists(), "it is held from before anything is loaded"
    for more in ([], ["--resume"], ["--overwrite"]):
        second = program("generate", "--model", tmp_path / "no such model", *more, slow, out)  # it gets not even so far
        assert second.returncode == 75, second.stderr
        said = second.stderr.decode()
        assert said.count("\n") == 1
        assert f"(process {first.pid} on " in said
        assert "try again later" in said
    (tmp_path / "link").symlink_to("out.jsonl")
    assert program("generate", *tiny, slow, tmp_path / "link").returncode == 75  # another name of the same file

    other = program("generate", *tiny, write_lines({"prompt": "a"}), tmp_path / "other.jsonl")
    assert other.returncode == 0, other.stderr
    assert [path.name for path in tmp_path.glob("other.jsonl.*")] == ["other.jsonl.job.json"]
    assert first.poll() is None

    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert lock.exists()
    after = program("generate", *tiny, "--overwrite", write_lines({"prompt": "a"}), out)
    assert after.returncode == 0, after.stderr
    assert [path.name for path in tmp_path.glob("out.jsonl.*")] == ["out.jsonl.job.json"]


def test_an_interrupted_run_lets_go(launch: Any, wait_for: Any, tiny: list[str], write_lines: Any, hold: Any, tmp_path: Path) -> None:
    path, lock = write_lines({"prompt": "a"}, {"prompt": "b"}), tmp_path / "out.jsonl.partial.lock"
    hold(path, 1)
    child = launch("generate", *tiny, path, tmp_path / "out.jsonl")
    wait_for((tmp_path / "out.jsonl.partial").exists, child)
    assert lock.exists()
    child.terminate()
    child.wait()
    assert not lock.exists()
