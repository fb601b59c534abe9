"""Kernels compiled for GPUs that are not here: registers, spills, shared memory and tensor cores, in a process without the interpreter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infer.kernels.cuda import activation, aot

MODULES = sorted(Path(aot.__file__).parent.rglob("*.py"))


TARGETS = [target.name for target in aot.TARGETS]
#: One of each make.
SOME = ["gfx942", "sm_90"]
#: The command, with the names on stdin in place of all signatures.
NAMED = """
import json, sys
from infer.kernels.cuda import aot
names, every = set(json.load(sys.stdin)), aot.all_signatures
aot.all_signatures = lambda: [s for s in every() if s.name in names]
sys.exit(aot.main())
"""


def names_for(target: str, *, all_of_them: bool) -> set[str]:
    """All signatures; or the first of each kernel, while its other forms and sizes are shared out between the makes."""
    if all_of_them:
        return {s.name for s in aot.all_signatures() if target in s.targets}
    here = [s for s in aot.some_of(aot.all_signatures()) if target in s.targets]
    firsts = {s.kernel: s.name for s in reversed(here)}
    others = list(dict.fromkeys(s.name for s in here if s.name not in firsts.values()))
    return {*firsts.values(), *others[SOME.index(target) :: len(SOME)]}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("all_of_them", [False, pytest.param(True, marks=pytest.mark.grid)], ids=["some", "all"])
def test_every_kernel_fits(all_of_them: bool, tmp_path: Path) -> None:
    """The command, running for each target: side by side, where there are processors for it."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", NAMED, "--json", "--target"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    names = {target: names_for(target, all_of_them=all_of_them) for target in (TARGETS if all_of_them else SOME)}
    running = {target: subprocess.Popen([*command, target], **pipes) for target in names}
    try:
        for target, process in running.items():
            process.stdin.write(json.dumps(sorted(names[target])))
            process.stdin.close()
            process.stdin = None
        said = {target: process.communicate() for target, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
    assert all(out for out, _ in said.values()), said
    reports = [r for out, _ in said.values() for r in json.loads(out)]
    assert [(r["name"], r["target"], r["problems"]) for r in reports if r["problems"]] == []
    assert {process.returncode for process in running.values()} == {0}
    assert {(r["name"], r["target"]) for r in reports} == {(name, target) for target in names for name in names[target]}
    assert all(0 < r["registers"] <= (512 if r["target"] == "gfx942" else 255) for r in reports)


def test_the_makes_share_out_every_form() -> None:
    """Every row of the usual list is compiled for at least one make, and every kernel in it for both."""
    shares = {target: names_for(target, all_of_them=False) for target in SOME}
    usual = [(s, target) for s in aot.some_of(aot.all_signatures()) for target in SOME if target in s.targets]
    assert {s.name for s, _ in usual} == set().union(*shares.values())
    assert {(s.kernel, target) for s, target in usual} == {(s.kernel, target) for s, target in usual if s.name in shares[target]}


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
