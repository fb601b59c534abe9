"""Disks that are full, devices that are no files, folders that cannot be written: one message, and nothing lost."""

from __future__ import annotations

import gzip
import os
import random
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

KIB = 1024


@pytest.fixture
def big(write_lines: Any) -> Path:
    """Some 800 KiB of output; every ninth line is bad."""
    lines: list[Any] = []
    for i in range(100):
        note = random.Random(i).randbytes(4000).hex()
        lines.append(b"bad" if i % 9 == 5 else {"prompt": f"Record {i}", "max_tokens": 5 + i % 7, "ignore_eos": True, "note": note})
    path: Path = write_lines(*lines)
    return path


def one_error(said: bytes) -> str:
    """The message of a run that could not write, without the line that says how to go on."""
    lines = [line for line in said.decode().splitlines() if "go on with: " not in line]
    assert len(lines) == 1, said
    assert lines[0].startswith("Error: output ")
    return lines[0]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_size_limit(
    launch: Any, infer_program: list[str], environment: Any, tiny: list[str], big: Path, tmp_path: Path, suffix: str
) -> None:
    """`ulimit -f`: writing fails in the middle of a line, as on a full disk."""
    out, errors, whole = tmp_path / f"out{suffix}", tmp_path / "errors", tmp_path / f"whole{suffix}"
    reference = launch("generate", *tiny, "--errors", tmp_path / "whole-errors", big, whole)
    limited = ["bash", "-c", 'ulimit -f 256; exec "$@"', "bash", *infer_program]
    argv = ["generate", *tiny, "--errors", str(errors), str(big), str(out)]
    for more in ([], ["--resume"]):  # the second finds no more room than the first
        done = subprocess.run([*limited, *argv, *more], env=environment, capture_output=True, timeout=300, check=False)
        assert done.returncode == 74, done.stderr
        assert "File too large" in one_error(done.stderr)
    assert not out.exists()
    again = launch("generate", *tiny, "--errors", errors, "--resume", big, out)
    said = again.communicate(timeout=300)[1].decode()
    assert again.returncode == 3, said
    assert reference.wait() == 3
    assert out.read_bytes() == whole.read_bytes()
    assert errors.read_bytes() == (tmp_path / "whole-errors").read_bytes()
    assert not list(tmp_path.glob("*.partial*"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if mount(folder, "size=256k"):
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def mount(folder: Path, options: str) -> int:
    try:
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False).returncode
    except OSError:
        return 1


def test_a_full_disk(program: Any, launch: Any, tiny: list[str], big: Path, disk: Path, tmp_path: Path) -> None:
    out, whole = disk / "out", tmp_path / "whole"
    reference = launch("generate", *tiny, big, whole)
    for more in ([], ["--resume"]):
        done = program("generate", *tiny, *more, big, out)
        assert done.returncode == 74, done.stderr
        said = one_error(done.stderr)
        assert "No space left on device" in said
        assert "it needs room for " in said
        assert b"go on with: " in done.stderr
    assert sorted(path.name for path in disk.iterdir()) == ["out.partial", "out.partial.journal"]
    assert mount(disk, "remount,size=4m") == 0
    done = program("generate", *tiny, "--resume", big, out)
    assert done.returncode == 3, done.stderr
    assert reference.wait() == 3
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in disk.iterdir()) == ["out", "out.job.json"]


def test_a_disk_without_any_room(program: Any, tiny: list[str], big: Path, disk: Path) -> None:
    (disk / "ballast").write_bytes(bytes(256 * KIB))
    done = program("generate", *tiny, big, disk / "out")
    assert done.returncode == 74, done.stderr
    assert "No space left on device" in one_error(done.stderr)
    assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_a_read_only_disk(program: Any, tiny: list[str], big: Path, disk: Path) -> None:
    assert mount(disk, "remount,ro") == 0
    done = program("generate", *tiny, big, disk / "out")
    assert done.returncode in (2, 74), done.stderr
    assert "Read-only file system" in one_error(done.stderr)


def test_a_folder_that_is_not_there(program: Any, tiny: list[str], big: Path, tmp_path: Path) -> None:
    for argv in ([tmp_path / "no" / "out"], [tmp_path / "out", "--errors", tmp_path / "no" / "errors"]):
        done = program("generate", *tiny, big, *argv)
        assert done.returncode == 2, done.stderr
        assert "there is no folder" in done.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_a_full_standard_output(program: Any, tiny: list[str], big: Path) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 (handed over open: nothing here names it as an output)
        done = program("generate", *tiny, big, "-", stdout=full)
    assert done.returncode == 74
    assert "No space left on device" in one_error(done.stderr)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["config", "show"]])
def test_a_full_standard_output_of_what_answers_nothing(program: Any, argv: list[str]) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = program(*argv, stdout=full)
    assert done.returncode == 74
    assert done.stderr.decode() == "Error: standard output cannot be written: No space left on device\n"


def make_device(path: Path, minor: int) -> Path:
    """A device node of our own: were it replaced by a file, the machine would not miss it."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        path.open("rb").close()
    except (AttributeError, OSError):
        pytest.skip("making a device is not permitted here")
    return path


def test_a_device_is_written_straight_through(program: Any, tiny: list[str], big: Path, tmp_path: Path) -> None:
    full, null = make_device(tmp_path / "full", 7), make_device(tmp_path / "null", 3)
    done = program("generate", *tiny, big, full)
    assert done.returncode == 74, done.stderr
    assert "No space left on device" in one_error(done.stderr)
    done = program("generate", *tiny, big, null, "--overwrite")
    assert done.returncode == 3, done.stderr
    for more in (["--resume"], ["--retry-errors"]):
        done = program("generate", *tiny, *more, big, null)
        assert done.returncode == 2, done.stderr
        assert "not a regular file" in done.stderr.decode()
    done = program("generate", *tiny, "--errors", null, big, tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert "--errors" in done.stderr.decode()
    assert "not a regular file" in done.stderr.decode()
    (tmp_path / "link").symlink_to(null)
    done = program("generate", *tiny, "--errors", tmp_path / "link", big, tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert full.is_char_device()
    assert null.is_char_device()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "in.jsonl", "link", "null"]


def test_an_empty_compressed_output_is_one(program: Any, tiny: list[str], write_lines: Any, tmp_path: Path) -> None:
    done = program("generate", *tiny, write_lines(), tmp_path / "out.gz")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.gz").stat().st_size
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == b""
