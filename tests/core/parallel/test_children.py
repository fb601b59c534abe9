"""Child processes: what they import, and which signals reach them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infer.core.parallel.children import environment, leave_current_folder, python_module, signals_kept_off


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules of the library's names that tell when they are imported."""
    here = tmp_path / "here"
    here.mkdir()
    for name in ("textwrap", "sitecustomize", "usercustomize", "runpy", "json"):
        (here / f"{name}.py").write_text("import pathlib; pathlib.Path('imported').touch(); raise SystemExit(66)")
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize("path", [None, "", ".", ":", ":/nowhere", "./:/nowhere", "../here"])
def test_nothing_of_the_current_folder_is_imported(folder: Path, monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if path is not None:
        monkeypatch.setenv("PYTHONPATH", path)
    run = subprocess.run(python_module("json.tool"), env=environment(), input="[1]", capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == ["[", "1", "]"]
    assert not (folder / "imported").exists()


def test_the_environment_keeps_what_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "lib:/opt/a::/opt/b:.")
    monkeypatch.setenv("PATH", ":/usr/bin:bin")
    found = environment(MORE="1")
    assert (found["PYTHONPATH"], found["PATH"], found["MORE"], found["PYTHONSAFEPATH"]) == ("/opt/a:/opt/b", "/usr/bin", "1", "1")
    monkeypatch.setenv("PYTHONPATH", "lib")
    assert "PYTHONPATH" not in environment()


def test_a_program_leaves_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ".:/opt/a")
    monkeypatch.setattr(sys, "path", [str(folder), "/opt/a", *sys.path])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    leave_current_folder()
    assert str(folder) not in sys.path
    assert "/opt/a" in sys.path
    assert (os.environ["PYTHONPATH"], os.environ["PYTHONSAFEPATH"]) == ("/opt/a", "1")


def test_a_child_that_is_still_being_imported_gets_no_signals(tmp_path: Path) -> None:
    slow = "import pathlib, time\npathlib.Path('up').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)\n"
    (tmp_path / "slow_child.py").write_text(
        slow + "from infer.core.parallel.children import ignore_signals\nignore_signals()\nprint('whole')\n"
    )
    with signals_kept_off():
        child = subprocess.Popen(
            python_module("slow_child"),
            env={**environment(), "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        while not (tmp_path / "up").exists() and child.poll() is None:
            time.sleep(0.01)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            child.send_signal(number)
        (tmp_path / "go").touch()
        assert (child.communicate(timeout=60)[0], child.returncode) == ("whole\n", 0)
    finally:
        child.kill()
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
