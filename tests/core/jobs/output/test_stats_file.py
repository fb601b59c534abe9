"""The file of --stats: its lock and its writing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import ConfigError, LockedError, OutputError
from infer.core.jobs.jsonl import spelled
from infer.core.jobs.output.stats_file import StatsFile

STATS = {"command": "generate", "exit_code": 0, "records": {"total": 1}, "versions": {}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stats.json"


def opened(path: Path | str, **options: Any) -> StatsFile:
    return StatsFile(str(path), **{"output": "out", "taken": [], "overwrite": False, "goes_on": False, **options})


def written(path: Path, value: dict[str, Any], **options: Any) -> None:
    with opened(path, **options) as file:
        file.write(value)


def test_it_is_whole_or_not_there(path: Path) -> None:
    with opened(path) as file:
        assert not path.exists()
        file.write({"a": 1})
        file.write({"a": 2})
        assert json.loads(path.read_text())["a"] == 2
    assert [p.name for p in path.parent.iterdir()] == ["stats.json"]


@pytest.mark.parametrize("goes_on", [False, True])
def test_other_files_are_not_replaced_unasked(path: Path, goes_on: bool) -> None:
    for data in (b"mine", b"", b"[1]", b"{}", json.dumps({**STATS, "output": os.path.realpath("other")}).encode()):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=r"--stats '.*' exists.*--overwrite"):
            opened(path, goes_on=goes_on)
        assert path.read_bytes() == data
    path.with_name("link").symlink_to(path)
    with pytest.raises(ConfigError, match=r"link' exists"):
        opened(path.with_name("link"), goes_on=goes_on)
    written(path, {"a": 1}, overwrite=True)
    assert json.loads(path.read_text())["a"] == 1


def test_a_run_that_goes_on_replaces_the_statistics_of_its_output(path: Path) -> None:
    written(path, STATS)
    with pytest.raises(ConfigError, match="exists"):
        opened(path)
    written(path, {**STATS, "exit_code": 3}, goes_on=True)
    assert json.loads(path.read_text())["exit_code"] == 3
    with pytest.raises(ConfigError, match="exists"):
        opened(path, goes_on=True, output="other")


def test_one_run_at_a_time_has_it(path: Path) -> None:
    with opened(path, overwrite=True), pytest.raises(LockedError, match=f"--stats '{path}' is being written by another run"):
        opened(path, overwrite=True)
    opened(path).__exit__()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["x.partial", "x.partial.lock", "no/stats", "."])
def test_impossible_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--stats"):
        opened(tmp_path / name, overwrite=True)
    with pytest.raises(ConfigError, match="choose another file"):
        opened(tmp_path / "a", taken=[str(tmp_path / "no" / ".." / "a")])
    with pytest.raises(ConfigError, match="File name too long"):
        opened(tmp_path / ("x" * 300))
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name(tmp_path: Path) -> None:
    written(tmp_path / ("x" * (os.pathconf(tmp_path, "PC_NAME_MAX") - len(".partial.lock"))), STATS)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_no_file_is_written_straight(tmp_path: Path) -> None:
    written(Path("/dev/null"), STATS)
    if Path("/dev/full").is_char_device():
        with pytest.raises(OutputError, match="No space left"):
            written(Path("/dev/full"), STATS)


def test_names_that_are_no_text(path: Path) -> None:
    """Files may be named by any bytes, JSON holds text."""
    name = os.fsdecode(b"caf\xe9")
    written(path, {"settings": {"model": name, "list": [name, Path(name)], "lone": "\ud800", "fine": "café"}}, output=name)
    found = json.loads(path.read_bytes().decode())
    assert found["settings"] == {"model": "caf\\xe9", "list": ["caf\\xe9"] * 2, "lone": "\\ud800", "fine": "café"}
    assert found["output"].endswith("caf\\xe9")
    assert spelled({name: 1}) == {"caf\\xe9": 1}
