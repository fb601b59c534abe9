"""Kernels compiled for GPUs that are not here: registers, spills, shared memory and tensor cores, in a process without the interpreter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infer.kernels.cuda import activation, aot

MODULES = sorted(Path(aot.__file__).parent.rglob("*.py"))


TARGETS = [target.name for target in aot.TARGETS]
#: One of each make.
SOME = ["sm_90", "gfx942"]
#: What the command is told besides: the same lists for all targets, so that it is started once.
QUICK, WHOLE = ["--quick"], list[str]()


@pytest.fixture(scope="module")
def compilers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The command, running for each target: side by side, where there are processors for it."""
    folder = tmp_path_factory.mktemp("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, "-m", "infer.kernels.cuda.aot", "--json", *request.param, "--target"]
    targets = SOME if request.param else TARGETS
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    running = {target: subprocess.Popen([*command, target], **pipes) for target in targets}
    yield running
    for process in running.values():
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compilers", "target"),
    [(QUICK, target) for target in SOME] + [pytest.param(WHOLE, target, marks=pytest.mark.grid) for target in TARGETS],
    ids=[f"some-{target}" for target in SOME] + [f"all-{target}" for target in TARGETS],
    indirect=["compilers"],
)
def test_every_kernel_fits(compilers: dict[str, subprocess.Popen[str]], target: str) -> None:
    out, told = compilers[target].communicate()
    assert out, told
    reports = json.loads(out)
    assert [(r["name"], r["problems"]) for r in reports if r["problems"]] == []
    assert compilers[target].returncode == 0
    signatures = aot.some_of(aot.all_signatures()) if "--quick" in compilers[target].args else aot.all_signatures()
    assert {(r["name"], r["target"]) for r in reports} == {(s.name, target) for s in signatures if target in s.targets}
    assert all(0 < r["registers"] <= (512 if target == "gfx942" else 255) for r in reports)


@pytest.mark.slow
@pytest.mark.grid
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("version", ["3.4.0", "3.6.0", "newest"])
def test_every_kernel_fits_by_another_triton(version: str, tmp_path: Path) -> None:
    """By the oldest that is allowed, by that of the oldest torch, and by the newest: each in a folder in front on the path."""
    wanted = "triton" if version == "newest" else f"triton=={version}"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path / "site"), wanted]
    installed = subprocess.run(pip, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"{wanted} cannot be had here: {(installed.stderr.splitlines() or ['pip says nothing'])[-1]}")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path / "site")}
    asked = [sys.executable, "-c", "import triton; print(triton.__file__)"]
    assert subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout.startswith(str(tmp_path))
    command = [sys.executable, "-m", "infer.kernels.cuda.aot", "--json", "--quick"]
    compiled = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert compiled.stdout, compiled.stderr
    assert [(r["name"], r["target"], r["problems"]) for r in json.loads(compiled.stdout) if r["problems"]] == []


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    """A signature that asks for what its kernel does not do."""
    code = """
import json, sys
from dataclasses import asdict, replace
from infer.kernels.cuda import aot, norm
signature = replace(norm.signatures()[0], uses_tensor_cores=True, targets=("sm_80",))
wrong = replace(signature, types={**signature.types, "x": "*nothing"})
print(json.dumps([asdict(r) for r in aot.reports([signature, wrong])]))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    told = json.loads(subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout)
    assert told[0]["problems"] == ["no tensor core instruction"]
    assert told[0]["registers"] > 0
    assert len(told[1]["problems"]) == 1


def test_tables_count_what_is_wrong() -> None:
    found = [
        aot.Report("a", "sm_80", 4, 100, 0, 1000, True),
        aot.Report("b", "sm_80", 8, 255, 72, 2000, False, ["spills 72 bytes, may spill 0"]),
        aot.Report("c", "sm_90", 4, 0, 0, 0, False, ["CompilationError: at 1:\n x | y"]),
    ]
    told = [[cell.strip() for cell in line.split("|")[1:-1]] for line in aot.totals(found)]
    assert [row[:6] for row in told[2:]] == [["sm_80", "2", "2", "1", "1", "72"], ["sm_90", "1", "0", "0", "0", "0"]]
    rows = list(aot.markdown(found))
    assert len(rows) == 2 + len(found)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}


def test_every_kernel_has_a_signature() -> None:
    """Of what is declared to Triton, all that is launched is compiled; all else is called by it."""
    declared = re.compile(r"^@triton\.jit(?:\([^)]*\))?\ndef (\w+)\(", re.MULTILINE)
    text = "\n".join(path.read_text("utf-8") for path in MODULES)
    kernels = set(declared.findall(text))
    launched = {name for name in kernels if re.search(rf"\b{name}\[", text)}
    signatures = aot.all_signatures()
    assert launched
    assert launched == {s.kernel.__name__ for s in signatures}
    assert {name for name in kernels - launched if len(re.findall(rf"\b{name}\(", text)) < 2} == set()
    rows = [(s.name, target) for s in signatures for target in s.targets]
    assert len(set(rows)) == len(rows)


def test_every_flag_is_compiled_both_ways() -> None:
    """Else there is code of a kernel that nobody has seen compiled."""
    seen: dict[tuple[str, str], set[bool]] = {}
    for signature in aot.all_signatures():
        for name, value in signature.constexprs.items():
            if isinstance(value, bool):
                seen.setdefault((signature.kernel.__name__, name), set()).add(value)
    assert {flag: values for flag, values in seen.items() if len(values) < 2} == {}
    kinds = {s.constexprs["KIND"] for s in aot.all_signatures() if s.kernel is activation.activation_kernel}
    assert kinds == set(activation.KINDS)


def test_importing_needs_no_gpu_and_names_every_argument() -> None:
    for signature in aot.all_signatures():
        names = set(signature.kernel.arg_names)
        assert set(signature.types) | set(signature.constexprs) == names, signature.name
        assert not set(signature.types) & set(signature.constexprs), signature.name
