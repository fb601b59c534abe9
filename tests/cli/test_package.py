"""The package itself: `import infer`, `python -m infer`, and what is in a wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run(*args: str, cwd: Path) -> str:
    return subprocess.run([sys.executable, *args], cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_the_short_import(tmp_path: Path) -> None:
    code = """
import sys, infer
assert "torch" not in sys.modules
from infer import LLM, SamplingParams, __version__
import infer.core
assert LLM is infer.core.LLM and "LLM" in dir(infer)
assert not hasattr(infer, "nothing")
from infer import kernels
print(__version__)
"""
    assert run("-c", code, cwd=tmp_path).strip() == run("-m", "infer", "--version", cwd=tmp_path).split()[1]


def test_the_module_runs_nothing_of_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("print('RAN')\n")
    assert "RAN" not in run("-m", "infer", "--version", cwd=tmp_path)
