"""Kernels compiled for GPUs that are not here: registers, spills, shared memory and tensor cores, in a process without the interpreter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infer.kernels.cuda import aot

MODULES = sorted(Path(aot.__file__).parent.glob("*.py"))


def compiled(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What the command tells of these signatures."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, "-m", "infer.kernels.cuda.aot", "--json", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout, result.stderr
    reports: list[dict[str, Any]] = json.loads(result.stdout)
    assert result.returncode == (1 if any(r["problems"] for r in reports) else 0)
    return reports


def is_within_limits(reports: list[dict[str, Any]]) -> None:
    assert [(r["name"], r["target"], r["problems"]) for r in reports if r["problems"]] == []
    for r in reports:
        assert 0 < r["registers"] <= (512 if r["target"] == "gfx942" else 255)


@pytest.mark.slow
def test_every_kernel_fits(tmp_path: Path) -> None:
    """One signature of each; those with tensor cores on every target."""
    reports = compiled(tmp_path, "--quick")
    is_within_limits(reports)
    assert {r["target"] for r in reports} == {"sm_80", "sm_90", "gfx942"}
    assert {(r["name"], r["target"]) for r in reports} == {(s.name, *s.targets) for s in aot.some_of(aot.all_signatures())}


@pytest.mark.grid
@pytest.mark.timeout(3600)
def test_every_signature_fits(tmp_path: Path) -> None:
    is_within_limits(compiled(tmp_path))


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


def test_every_kernel_has_a_signature() -> None:
    """Every function of Triton's whose name ends in `_kernel` is one that is launched."""
    launched = {
        name for path in MODULES for name in re.findall(r"^@triton\.jit\ndef (\w+_kernel)\(", path.read_text("utf-8"), re.MULTILINE)
    }
    assert launched
    signatures = aot.all_signatures()
    assert launched <= {s.kernel.__name__ for s in signatures}
    rows = [(s.name, target) for s in signatures for target in s.targets]
    assert len(set(rows)) == len(rows)


def test_importing_needs_no_gpu_and_names_every_argument() -> None:
    for signature in aot.all_signatures():
        names = set(signature.kernel.arg_names)
        assert set(signature.types) | set(signature.constexprs) == names, signature.name
        assert not set(signature.types) & set(signature.constexprs), signature.name
