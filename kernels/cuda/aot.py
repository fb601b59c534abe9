"""Ahead-of-time compilation of the kernels: what each takes of a processor, and whether it fits.

`python -m infer.kernels.cuda.aot [--quick] [--target TARGET] [NAME...]` compiles every signature (or those whose name holds one of
NAME) for each target (or that one) and prints a table in markdown; `--json` prints the same as JSON. No GPU is needed: Triton brings
its own assemblers. Run it in a process without TRITON_INTERPRET, since Triton chooses between compiler and interpreter when a kernel
is declared. Another version of Triton is one in front on the path:

    pip install --no-deps --target /tmp/triton-3.6 triton==3.6.0
    PYTHONPATH=/tmp/triton-3.6 python -m infer.kernels.cuda.aot
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .signature import TARGETS, Signature, Target

__all__ = ["TARGETS", "Signature", "Target", "all_signatures", "check", "reports", "some_of"]

#: Modules of this folder that have kernels, and "folder.name" of one in it: each has `signatures() -> list[Signature]`.
MODULES = (
    "activation",
    "attention",
    "experts",
    "fp8",
    "groups.kernel",
    "int8",
    "kv",
    "linear",
    "logprobs",
    "lora.kernels",
    "norm",
    "quantize",
    "rope",
    "sampling",
    "segments",
    "state.convolution",
    "state.delta",
    "state.gated_norm",
    "state.mamba2",
    "state.selective_scan",
)


#: What Triton 3.4 spills, in bytes a thread, where 3.6 and later spill nothing: the results are right, and a little slower.
OLDER_SPILLS = 128


@dataclass(frozen=True)
class Report:
    """The resources that a signature takes on a target."""

    name: str
    target: str
    registers: int
    """Vector registers of a thread (gfx942: accumulation registers among them)."""
    spills: int
    """Bytes a thread spills (loads and stores; gfx942: spilled registers * 4)."""
    shared: int
    """Bytes of shared memory of a block."""
    uses_matrix_instructions: bool
    problems: list[str] = field(default_factory=list)
    """The limits that are exceeded, in words."""


def all_signatures() -> list[Signature]:
    """Of every module of `MODULES`."""
    # By name: the modules import this one.
    package = __package__ or "infer.kernels.cuda"
    return [signature for name in MODULES for signature in importlib.import_module(f"{package}.{name}").signatures()]


def some_of(signatures: Iterable[Signature]) -> list[Signature]:
    """Those marked `always`; of every other kernel the first, for sm_90 and where it uses tensor cores for all targets."""
    chosen: dict[tuple[Any, ...], Signature] = {}
    for signature in signatures:
        for target in signature.targets:
            if signature.always or target == "sm_90" or signature.uses_tensor_cores:
                key = (signature.kernel, target, signature.name if signature.always else "")
                chosen.setdefault(key, replace(signature, targets=(target,)))
    return list(chosen.values())


def check(signature: Signature, target: Target) -> Report:
    """Compiles one signature for one target. Triton's own errors pass through."""
    compiled = _compile(signature, target)
    registers, spills, shared = _nvidia_figures(compiled, target) if target.backend == "cuda" else _amd_figures(compiled)
    text = compiled.asm["ptx" if target.backend == "cuda" else "amdgcn"]
    matrix = re.search(target.matrix_instruction, text) is not None
    problems = []
    limit = signature.spill_limit + _older()
    if spills > limit:
        problems.append(f"spills {spills} bytes, may spill {limit}")
    if shared > target.shared_limit:
        problems.append(f"{shared} bytes of shared memory, {target.shared_limit} are there")
    if signature.uses_tensor_cores and not matrix:
        problems.append("no tensor core instruction")
    return Report(signature.name, target.name, registers, spills, shared, matrix, problems)


def _older() -> int:
    """Bytes more that a thread may spill as older versions of Triton compile it: no torch that this runs with brings one of them."""
    import triton

    return OLDER_SPILLS if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 6) else 0


def reports(signatures: Iterable[Signature], target_name: str | None = None) -> Iterator[Report]:
    """Of each signature on each of its targets, or on that one; what cannot be compiled is a problem too."""
    for signature in signatures:
        for target in TARGETS:
            if target.name in signature.targets and target_name in (None, target.name):
                try:
                    yield check(signature, target)
                except Exception as error:
                    yield Report(signature.name, target.name, 0, 0, 0, False, [f"{type(error).__name__}: {error}"])


def _compile(signature: Signature, target: Target) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = signature.kernel.arg_names
    types, attributes = {}, {}
    for place, name in enumerate(names):
        kind, _, multiple = signature.types.get(name, "constexpr").partition(":")
        types[name] = kind
        parameter = signature.kernel.params[place]
        aligned = not (parameter.do_not_specialize or parameter.do_not_specialize_on_alignment)
        assert aligned or not multiple, f"{signature.name}: {name} is compiled for any number"
        if aligned and (kind.startswith("*") or multiple):
            attributes[(place,)] = [["tt.divisibility", int(multiple or 16)]]
    unknown = (set(signature.types) | set(signature.constexprs)) - set(names)
    missing = set(names) - set(signature.types) - set(signature.constexprs)
    assert not unknown | missing, f"{signature.name}: unknown {sorted(unknown)}, missing {sorted(missing)}"
    source = ASTSource(signature.kernel, types, signature.constexprs, attributes)
    options = {"num_warps": signature.num_warps, "num_stages": signature.num_stages}
    return triton.compile(source, target=GPUTarget(target.backend, target.arch, target.warp_size), options=options)


def _nvidia_figures(compiled: Any, target: Target) -> tuple[int, int, int]:
    """(registers, spilled bytes, shared bytes). ptxas knows the first two; shared memory is asked for at the launch."""
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    assert isinstance(target.arch, int)
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder, "kernel.ptx")
        ptx.write_text(compiled.asm["ptx"])
        # Triton 3.4 has one assembler for all.
        assembler = get_ptxas(target.arch) if inspect.signature(get_ptxas).parameters else get_ptxas()
        command = [assembler.path, "-v", f"--gpu-name={sm_arch_from_capability(target.arch)}", ptx.name, "-o", "kernel.cubin"]
        told = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stderr
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told)
    used = re.search(r"Used (\d+) registers", told)
    assert spilled, told
    assert used, told
    return int(used[1]), int(spilled[1]) + int(spilled[2]), compiled.metadata.shared


def _amd_figures(compiled: Any) -> tuple[int, int, int]:
    """(vector registers, spilled bytes, shared bytes) from the metadata at the end of the assembly."""

    def figure(name: str) -> int:
        found = re.search(rf"^\s+\.{name}:\s+(\d+)", compiled.asm["amdgcn"], re.MULTILINE)
        assert found, name
        return int(found[1])

    return figure("vgpr_count"), 4 * figure("vgpr_spill_count"), max(figure("group_segment_fixed_size"), compiled.metadata.shared)


def markdown(found: Iterable[Report]) -> Iterator[str]:
    """Lines of a table."""
    yield "| kernel | target | registers | spills (B) | shared (B) | tensor cores | |"
    yield "|---|---|---:|---:|---:|---|---|"
    for r in found:
        cores = "yes" if r.uses_matrix_instructions else ""
        yield f"| {r.name} | {r.target} | {r.registers} | {r.spills} | {r.shared} | {cores} | {'; '.join(r.problems)} |"


def main() -> int:
    """Prints the table on stdout; 1 where something is not within limits."""
    parser = argparse.ArgumentParser(prog="python -m infer.kernels.cuda.aot", description="Compiles every kernel for every target.")
    parser.add_argument("names", nargs="*", help="only signatures whose name holds one of these")
    parser.add_argument("--quick", action="store_true", help="only what a usual test run compiles")
    parser.add_argument("--target", choices=[target.name for target in TARGETS], help="only for this processor")
    parser.add_argument("--json", action="store_true", help="a JSON array in place of a table")
    arguments = parser.parse_args()
    chosen = [s for s in all_signatures() if not arguments.names or any(name in s.name for name in arguments.names)]
    if arguments.quick:
        chosen = some_of(chosen)
    found = []

    def seen() -> Iterator[Report]:
        for report in reports(chosen, arguments.target):
            found.append(report)
            yield report

    if arguments.json:
        print(json.dumps([asdict(report) for report in seen()]))
    else:
        for line in markdown(seen()):
            print(line, flush=True)
    return 1 if any(report.problems for report in found) else 0


if __name__ == "__main__":
    sys.exit(main())
