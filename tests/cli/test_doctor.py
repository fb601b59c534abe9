"""`infer doctor`, and what a run does where there is no compiler."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from infer.cli.tools import doctor
from infer.core.settings.threads import Threads
from infer.kernels.cpu import build, gemm, library


@pytest.fixture
def no_compiler(tmp_path: Path) -> dict[str, str]:
    """An environment without one, and without anything compiled before."""
    return {**os.environ, "CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def instructions(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> gemm.Instructions:
    """Those of one machine for all tests but those of real builds."""
    told = gemm.Instructions("GCC 12", "AVX2 with FMA", "oneDNN, without dot products", "AVX2 vpmaddubsw, exact", "A", "B", "C")
    if "compiled_kernels" not in request.fixturenames:
        monkeypatch.setattr(gemm, "instructions", lambda: told)
    return told


def fake_library(compile_seconds: float | None) -> Callable[[], library.Library]:
    return lambda: library.Library(None, "abc", Path("/cache/x.so"), compile_seconds)  # type: ignore[arg-type]


class TestDoctor:
    def test_json(self, call: Callable[..., Result], compiled_kernels: None) -> None:
        result = call("doctor", "--json")
        assert result.exit_code == 0
        told = json.loads(result.stdout)
        assert told["error"] is None
        assert told["cpu"]["model"]
        assert told["threads"]["count"] >= 1
        assert 0 < told["memory"]["free"] <= told["memory"]["total"]
        assert set(told["versions"]) == {"infer", "python", "torch", "transformers", "tokenizers", "safetensors", "triton", "numpy"}
        assert (told["kernels"]["backend"] == "cpu") == (told["kernels"]["error"] is None) == (told["warnings"] == [])
        assert told["dtype"]["auto"] == ("bfloat16" if told["bfloat16"] else "float32" if told["device"] == "cpu" else "float16")
        assert told["dtype"]["reason"]
        if told["kernels"]["backend"] == "cpu":
            assert all(told["kernels"]["instructions"].values())
            assert told["kernels"]["instructions"]["int8"].endswith(", exact")
            assert Path(told["kernels"]["file"]).parent == Path(told["kernels"]["cache"])

    def test_table(self, call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("infer.core.settings.threads.choose_threads", lambda asked: Threads(2, 8, "the control group allows 1.5 CPUs"))
        monkeypatch.setattr(library, "library", fake_library(None))
        monkeypatch.setattr(doctor, "library_versions", lambda: {"infer": "1.2", "numpy": "not installed"})
        monkeypatch.setattr(build.Compiler, "version", lambda self: "g++ 12")
        monkeypatch.setattr(build, "compilers", lambda: [build.Compiler(("/usr/bin/g++", "-m64"))])
        monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
        lines = call("doctor").stdout.splitlines()
        shown = {line[:18].strip(): line[18:] for line in lines}
        assert list(shown)[:2] == ["device", "CPU"]
        assert shown["threads"] == "2 on 8 cores (the control group allows 1.5 CPUs)"
        assert shown["compiler"] == "/usr/bin/g++ -m64: g++ 12"
        assert shown["CPU kernels"] == "compiled by GCC 12"
        assert shown["products"] == "float32: AVX2 with FMA; bfloat16: oneDNN, without dot products; int8: AVX2 vpmaddubsw, exact"
        assert shown["attention"] == "float32: A; bfloat16: B; int8: C"
        assert shown["kernel cache"] == "/cache/infer/kernels"
        assert lines[-2:] == ["infer             1.2", "numpy             not installed"]

    def test_how_long_compiling_took(self, call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(library, "library", fake_library(12.34))
        assert "CPU kernels       compiled now by GCC 12, in 12.3 s\n" in call("doctor").stdout
        assert json.loads(call("doctor", "--json").stdout)["kernels"]["compile_seconds"] == 12.34

    def test_no_compiler_is_a_warning(self, infer_program: list[str], no_compiler: dict[str, str]) -> None:
        result = subprocess.run([*infer_program, "doctor"], env=no_compiler, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0
        assert "\nCPU kernels       reference (plain torch)\n" in result.stdout
        assert "\ncompiler          none\n" in result.stdout
        assert result.stderr == (
            "warning: runs on the CPU are much slower without compiled kernels: "
            "CXX=no-such-compiler is not a program; set it to a C++ compiler, or not at all\n"
        )

    @pytest.mark.parametrize(
        ("capability", "lacking"), [((9, 0), ""), ((8, 0), ""), ((7, 5), ""), ((9, 0), "triton 3.6.0 needs a C compiler (gcc)")]
    )
    def test_a_gpu(self, call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], lacking: str) -> None:
        monkeypatch.setattr(library, "library", fake_library(None))
        monkeypatch.setattr("infer.kernels.cuda.build.lacking", lambda: lacking)
        for name, answer in {
            "is_available": True,
            "device_count": 2,
            "current_device": 0,
            "get_device_name": "Toy GPU",
            "get_device_capability": capability,
        }.items():
            monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, answer=answer: answer)
        result = call("doctor")
        assert "device            cuda:0, Toy GPU, Toy GPU\n" in result.stdout
        told = json.loads(call("doctor", "--json").stdout)["gpu_kernels"]
        if capability >= (8, 0) and not lacking:
            assert told["backend"] == "cuda"
            assert f"GPU kernels       {told['build']}\n" in result.stdout
            assert told["build"].startswith("triton-")
            assert told["fp8"] == ("weights and rows" if capability >= (8, 9) else "weights")
            assert f"GPU, packed       4 and 8 bits stay packed; of fp8 {told['fp8']} do\n" in result.stdout
        else:
            assert told == {"backend": "reference", "build": None, "fp8": None}
            assert "GPU kernels       reference (plain torch)\n" in result.stdout
            assert (lacking or "this GPU has compute capability 7.5, and the Triton kernels need 8.0") in result.stderr

    def test_without_torch_nothing_would_run(self, call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        result = call("doctor", "--json")
        assert result.exit_code == 1
        told = json.loads(result.stdout)
        assert told["error"].startswith("torch cannot be imported: ")
        assert told["versions"]["python"]
        assert f"Error: {told['error']}" in result.stderr
        assert call("doctor").exit_code == 1


class TestRunsWithoutACompiler:
    @pytest.fixture
    def run(
        self, program: Callable[..., Any], tiny: list[str], write_lines: Callable[..., Path], no_compiler: dict[str, str]
    ) -> Callable[..., Any]:
        path = write_lines({"prompt": "a", "max_tokens": 2})
        return lambda *flags: program("generate", *tiny, *flags, path, "-", env=no_compiler)

    def test_the_reference_kernels_run_and_that_is_said_once(self, run: Callable[..., Any]) -> None:
        result = run()
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["error"] is None
        assert result.stderr.count(b"note: kernels: reference, which is much slower (CXX=no-such-compiler is not a program") == 1

    @pytest.mark.parametrize("flags", [["--require-kernels"], ["--kernels", "cpu"]])
    def test_or_the_run_is_refused(self, run: Callable[..., Any], flags: list[str]) -> None:
        result = run(*flags)
        assert (result.returncode, result.stdout) == (2, b"")
        assert b"CXX=no-such-compiler is not a program" in result.stderr

    def test_a_check_needs_none(
        self, program: Callable[..., Any], tiny: list[str], write_lines: Callable[..., Path], no_compiler: dict[str, str]
    ) -> None:
        result = program("check", *tiny, "--require-kernels", write_lines({"prompt": "a"}), env=no_compiler)
        assert result.returncode == 0, result.stderr
        assert b"kernels" not in result.stderr


#: A compiler that takes any flag, whose objects are empty, and which has the kernels linked already.
READY = """#!/bin/sh
case "$*" in *" -o "*) ;; *) exit 0;; esac
case "$*" in *-shared*) from={kernels};; *) from=/dev/null;; esac
while [ "$1" != -o ]; do shift; done
cat "$from" > "$2"
"""


def test_compiling_is_said_unless_quiet(
    program: Callable[..., Any], tiny: list[str], write_lines: Callable[..., Path], tmp_path: Path, environment: dict[str, str]
) -> None:
    if not build.compilers():
        pytest.skip("no compiler")
    path = write_lines({"prompt": "a", "max_tokens": 2})
    stats = tmp_path / "stats.json"
    compiler = tmp_path / "compiler"
    compiler.write_text(READY.format(kernels=shlex.quote(str(library.library().path))))
    compiler.chmod(0o755)
    env = {**environment, "XDG_CACHE_HOME": str(tmp_path / "cache"), "CXX": str(compiler)}
    result = program("generate", *tiny, "--stats", stats, path, "-", env=env)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(b"compiling the CPU kernels") == 1
    settings = json.loads(stats.read_text())["settings"]
    assert settings["kernels"] == "cpu"
    assert settings["kernel_build"]
    assert b"compiling" not in program("generate", *tiny, path, "-", env=env).stderr
