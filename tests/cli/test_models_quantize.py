"""`infer models quantize`: the whole program, and a kill of it at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from infer.core.errors import ModelError
from infer.core.weights.find import find


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "infer.cli", "models", "quantize", *args], capture_output=True, text=True, check=False)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"the cat number {i} sat on a mat " * 4}) + "\n" for i in range(20)))
    return path


def test_the_folder_is_printed_and_runs(call: Callable[..., Result], tiny_llama: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = run(str(tiny_llama), str(out), "--scheme", "w4a16", "--group-size", "32", "--calibrate", str(texts), "--records", "8")
    assert (made.returncode, made.stdout) == (0, f"{out}\n")
    assert "14 linear layers, by" in made.stderr
    assert call("generate", "--model", out, texts, tmp_path / "answers", "--device", "cpu", "--max-tokens", "4").exit_code == 0
    assert all(json.loads(line)["error"] is None for line in (tmp_path / "answers").read_text().splitlines())
    again = call("models", "quantize", tiny_llama, out, "--scheme", "w8a8")
    assert (again.exit_code, again.stdout) == (2, "")
    assert "is there already" in again.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_one_leaves_nothing_that_loads(
    call: Callable[..., Result], tiny_llama: Path, texts: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The folder is whole or it is not there; the next run does not mind what is left."""
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    args = [str(tiny_llama), str(out), "--scheme", "w8a8", "--calibrate", str(texts)]
    process = subprocess.Popen(
        [sys.executable, "-m", "infer.cli", "models", "quantize", *args],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and not partial.exists():
        time.sleep(0.005)
    time.sleep(random.Random(int(number)).random() * 0.2)
    process.send_signal(number)
    process.wait()
    if not out.exists():  # it was not done before
        assert process.returncode != 0
        if number != signal.SIGKILL:
            assert not partial.exists()
        elif partial.exists():
            with pytest.raises(ModelError):
                find(str(partial))
    made = call("models", "quantize", *args, *(["--overwrite"] if out.exists() else []))
    assert made.exit_code == 0, made.stderr
    assert find(str(out)).tensors()
    assert not partial.exists()
