"""Exit statuses: a real command for each."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def good(write_lines: Any) -> Path:
    path: Path = write_lines(*({"prompt": f"{i}", "max_tokens": 3} for i in range(8)), name="good.jsonl")
    return path


@pytest.fixture
def mixed(write_lines: Any) -> Path:
    path: Path = write_lines(*(b"bad" if i % 2 else {"prompt": f"{i}", "max_tokens": 3} for i in range(8)), name="mixed.jsonl")
    return path


def test_0_and_3(program: Any, tiny: list[str], good: Path, mixed: Path, tmp_path: Path) -> None:
    assert program("generate", *tiny, good, tmp_path / "a").returncode == 0
    assert program("generate", *tiny, mixed, tmp_path / "b").returncode == 3
    assert program("generate", *tiny, mixed, "-").returncode == 3
    assert program("--version").returncode == 0
    assert program("generate", "--help").returncode == 0


def test_1_a_damaged_model(program: Any, tiny: list[str], tiny_llama: Path, good: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(tiny_llama, tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    done = program("generate", *tiny, "--model", damaged, good, tmp_path / "out")
    assert done.returncode == 1, done.stderr
    said = done.stderr.decode()
    assert "model.safetensors" in said
    assert "internal error" not in said
    assert "go on with" not in said
    assert program("generate", "--model", tmp_path / "none", good, tmp_path / "out").returncode == 1
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(("limit", "enough"), [("1", "4"), ("20%", "50%")])
def test_1_too_many_errors(program: Any, tiny: list[str], mixed: Path, tmp_path: Path, limit: str, enough: str) -> None:
    done = program("generate", *tiny, "--max-errors", limit, mixed, tmp_path / "out")
    assert done.returncode == 1, done.stderr
    said = done.stderr.decode()
    assert "--max-errors allows" in said
    assert "go on with: " in said
    assert not (tmp_path / "out").exists()
    kept = (tmp_path / "out.partial").read_bytes()
    done_before = int(said.partition("stopped after ")[2].split()[0])
    assert done_before >= (8 if "%" in limit else 2)
    again = program("generate", *tiny, "--max-errors", limit, "--resume", mixed, tmp_path / "out")
    assert again.returncode == 1, again.stderr
    done = program("generate", *tiny, "--max-errors", enough, "--resume", mixed, tmp_path / "out")
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "out").read_bytes().startswith(kept)
    assert (tmp_path / "out").read_bytes().count(b"\n") == 8
    if done_before == 8:
        assert "first token" not in done.stderr.decode(), "all of it was kept"


def test_2(program: Any, tiny: list[str], good: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("max_num_seq: 3\n")
    (tmp_path / "there").write_text("precious")
    out = tmp_path / "out"
    cases: list[tuple[list[Any], str]] = [
        (["generate", "--no-such-option", good, out], "--no-such-option"),
        (["generat", good, out], "generate"),
        (["generate", *tiny, good, out, "third"], "third"),
        (["generate", *tiny, "--config", config, good, out], "max_num_seqs"),
        (["generate", *tiny, "--dtype", "int3", good, out], "--dtype"),
        (["generate", *tiny, "--max-num-seqs", "0", good, out], "max_num_seqs"),
        (["generate", *tiny, good, tmp_path / "there"], "--overwrite"),
        (["generate", *tiny, good, good], "same file"),
        (["generate", *tiny, "--resume", "--overwrite", good, out], "--resume"),
        (["generate", *tiny, tmp_path / "none", out], "does not exist"),
        (["generate", *tiny, "--prompt-field", "promt", good, out], "did you mean 'prompt'?"),
        (["generate", *tiny, "--regex", "(", good, out], "--regex: "),
        (["chat", *tiny, "--json-schema", '{"type": "thing"}', good, out], "--json-schema: "),
    ]
    for argv, said in cases:
        done = program(*argv)
        assert done.returncode == 2, (argv, done.stderr)
        assert said in done.stderr.decode(), (argv, done.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "good.jsonl", "there"]
    assert (tmp_path / "there").read_text() == "precious"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a folder that is in use may not be removable")
def test_a_current_folder_that_was_removed_is_said(infer_program: list[str], tmp_path: Path) -> None:
    gone = ["bash", "-c", 'mkdir "$0/gone" && cd "$0/gone" && rmdir "$0/gone" && exec "$@"', str(tmp_path)]
    for argv in (["doctor"], ["generate", "-m", "x", str(tmp_path / "in"), str(tmp_path / "out")]):
        done = subprocess.run([*gone, *infer_program, *argv], capture_output=True, check=False, timeout=300)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(b"Error: the current folder is not there any more"), done.stderr
    assert subprocess.run([*gone, *infer_program, "--help"], capture_output=True, check=False, timeout=300).returncode == 0


def test_74_and_75(program: Any, launch: Any, wait_for: Any, tiny: list[str], good: Path, infer_program: list[str], tmp_path: Path) -> None:
    limited = ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *infer_program, "generate", *tiny, str(good), str(tmp_path / "out")]
    done = subprocess.run(limited, capture_output=True, check=False, timeout=300)
    assert done.returncode == 74, done.stderr
    first = launch("generate", *tiny, "-", tmp_path / "out", stdin=subprocess.PIPE)
    wait_for((tmp_path / "out.partial.lock").exists, first)
    assert program("generate", *tiny, good, tmp_path / "out").returncode == 75


def test_130_141_143(infer_program: list[str], launch: Any, wait_for: Any, tiny: list[str], tmp_path: Path) -> None:
    """129 and all that belongs to signals is in test_signals.py."""
    many = 'many() { while :; do echo "{\\"prompt\\":\\"a\\"}"; done; }; many 2>&- | '
    broken = many + '"$@" | head -1 >/dev/null; exit "${PIPESTATUS[1]}"'
    command = ["bash", "-c", broken, "bash", *infer_program, "generate", "-q", *tiny, "-", "-"]
    assert subprocess.run(command, timeout=300, check=False).returncode == 141
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        child = launch("generate", "-q", *tiny, "-", tmp_path / f"out{code}", stdin=subprocess.PIPE)
        wait_for((tmp_path / f"out{code}.partial.lock").exists, child)
        child.send_signal(number)
        assert child.wait(300) == code
