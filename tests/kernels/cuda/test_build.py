"""Tools that Triton builds its launchers with: a C compiler and Python's headers, up to version 3.6 for each kernel."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
import triton

from infer.kernels.cuda import build


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of programs and one of headers, both there and empty."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "include").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path / "include")})
    monkeypatch.setattr(triton, "__version__", "3.6.0")
    return tmp_path


def program(machine: Path, name: str) -> None:
    (machine / "bin" / name).touch(mode=0o755)


def test_what_is_missing_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = "triton 3.6.0 needs a C compiler (gcc) and Python's headers (python3-dev) to launch kernels; install them"
    assert build.lacking() == both
    program(machine, "clang")
    assert build.lacking() == "triton 3.6.0 needs Python's headers (python3-dev) to launch kernels; install it"
    (machine / "include" / "Python.h").touch()
    assert build.lacking() == ""
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "a C compiler (gcc)" in build.lacking()
    program(machine, "no-such-compiler")
    assert build.lacking() == ""


@pytest.mark.parametrize("version", ["3.4.0", "3.6.0", "3.7.0", "3.10.1+git5"])
@pytest.mark.parametrize("cached", [True, False])
def test_later_versions_may_have_it_in_their_cache(machine: Path, monkeypatch: pytest.MonkeyPatch, version: str, cached: bool) -> None:
    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(build, "_has_launcher", lambda: cached)
    assert (build.lacking() == "") == (cached and version in ("3.7.0", "3.10.1+git5"))
