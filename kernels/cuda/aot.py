"""Ahead-of-time compilation of the kernels: what each takes of a processor, and whether it fits.

`python -m infer.kernels.cuda.aot [--quick] [--target TARGET...] [NAME...]` compiles every signature (or those whose name holds one of
NAME) for each target (or those) and prints two tables in markdown: a row for each signature, and one for each target. `--json` prints
the first as JSON. No GPU is needed: Triton brings its own assemblers (its AMD compiler up to 3.4 wants an ld.lld besides, which
TRITON_HIP_LLD_PATH may name). Run it in a process without TRITON_INTERPRET, since Triton chooses between compiler and interpreter when a
kernel is declared. One row again, and all of them by another version of Triton, which is one in front on the path:

    python -m infer.kernels.cuda.aot --target sm_120 "attend_texts bf16 64 with bias"
    pip install --no-deps --target /tmp/triton-3.6 triton==3.6.0
    PYTHONPATH=/tmp/triton-3.6 python -m infer.kernels.cuda.aot
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
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
    warps: int
    """Of a program; registers are a thread's, of which a warp has 32 (gfx942: 64)."""
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
    compiled, told = _compile(signature, target)
    if target.backend == "cuda":
        registers, spills, shared = _nvidia_figures(compiled, told or _told_again(compiled, target))
    else:
        registers, spills, shared = _amd_figures(compiled)
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
    return Report(signature.name, target.name, signature.num_warps, registers, spills, shared, matrix, problems)


def _older() -> int:
    """Bytes more that a thread may spill as older versions of Triton compile it: no torch that this runs with brings one of them."""
    import triton

    return OLDER_SPILLS if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 6) else 0


def reports(signatures: Iterable[Signature], names: Iterable[str] = ()) -> Iterator[Report]:
    """Of each signature on each of its targets, or on those of `names`; what cannot be compiled is a problem too."""
    wanted = set(names) or {target.name for target in TARGETS}
    for signature in signatures:
        for target in TARGETS:
            if target.name in wanted.intersection(signature.targets):
                try:
                    yield check(signature, target)
                except Exception as error:
                    words = f"{type(error).__name__}: {error}"
                    yield Report(signature.name, target.name, signature.num_warps, 0, 0, 0, False, [words])


def _compile(signature: Signature, target: Target) -> tuple[Any, str]:
    """(the compiled kernel, what NVIDIA's assembler said of it)."""
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
    told = io.StringIO()
    with triton.knobs.compilation.scope(), triton.knobs.nvidia.scope(), contextlib.redirect_stdout(told):
        # Its own call of the assembler is the one whose options are right; of a kernel that it has in its cache nothing would be told.
        triton.knobs.compilation.always_compile, triton.knobs.nvidia.dump_ptxas_log = True, True
        compiled = triton.compile(source, target=GPUTarget(target.backend, target.arch, target.warp_size), options=options)
    return compiled, told.getvalue()


def _nvidia_figures(compiled: Any, told: str) -> tuple[int, int, int]:
    """(registers, spilled bytes, shared bytes). ptxas tells the first two; shared memory is asked for at the launch."""
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", told)
    used = re.search(r"Used (\d+) registers", told)
    assert spilled, told
    assert used, told
    return int(used[1]), int(spilled[1]) + int(spilled[2]), compiled.metadata.shared


def _told_again(compiled: Any, target: Target) -> str:
    """The same by a second call with the same options, for Triton 3.4, which keeps it to itself."""
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    assert isinstance(target.arch, int)
    # Triton 3.4 has one assembler for all.
    assembler = get_ptxas(target.arch) if inspect.signature(get_ptxas).parameters else get_ptxas()
    options = ["-lineinfo", *([] if compiled.metadata.enable_fp_fusion else ["--fmad=false"]), "-v"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernel.ptx").write_text(compiled.asm["ptx"])
        command = [assembler.path, *options, f"--gpu-name={sm_arch_from_capability(target.arch)}", "kernel.ptx", "-o", "kernel.cubin"]
        return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stderr


def _amd_figures(compiled: Any) -> tuple[int, int, int]:
    """(vector registers, spilled bytes, shared bytes) from the metadata at the end of the assembly."""

    def figure(name: str) -> int:
        found = re.search(rf"^\s+\.{name}:\s+(\d+)", compiled.asm["amdgcn"], re.MULTILINE)
        assert found, name
        return int(found[1])

    return figure("vgpr_count"), 4 * figure("vgpr_spill_count"), max(figure("group_segment_fixed_size"), compiled.metadata.shared)


def markdown(found: Iterable[Report]) -> Iterator[str]:
    """Lines of a table with a row for each report."""
    yield "| kernel | target | warps | registers | spills (B) | shared (B) | tensor cores | |"
    yield "|---|---|---:|---:|---:|---:|---|---|"
    for r in found:
        cores = "yes" if r.uses_matrix_instructions else ""
        problems = "; ".join(r.problems).replace("\n", " ").replace("|", "\\|")
        yield f"| {r.name} | {r.target} | {r.warps} | {r.registers} | {r.spills} | {r.shared} | {cores} | {problems} |"


def totals(found: Iterable[Report]) -> Iterator[str]:
    """Lines of a table with a row for each target."""
    import triton

    yield f"| Triton {triton.__version__} | signatures | compiled | over limits | spill | most spilled (B) | most shared (B), of |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    of_target: dict[str, list[Report]] = {}
    for report in found:
        of_target.setdefault(report.target, []).append(report)
    for target in TARGETS:
        if rows := of_target.get(target.name):
            # No kernel does without a register: 0 of them stand where there is nothing to tell.
            compiled = [r for r in rows if r.registers]
            counts = [len(rows), len(compiled), sum(bool(r.problems) for r in compiled), sum(r.spills > 0 for r in compiled)]
            spilled, shared = max((r.spills for r in rows), default=0), max((r.shared for r in rows), default=0)
            yield f"| {target.name} | {' | '.join(map(str, counts))} | {spilled} | {shared}, {target.shared_limit} |"


def main() -> int:
    """Prints the tables on stdout; 1 where something is not within limits."""
    parser = argparse.ArgumentParser(prog="python -m infer.kernels.cuda.aot", description="Compiles every kernel for every target.")
    parser.add_argument("names", nargs="*", help="only signatures whose name holds one of these")
    parser.add_argument("--quick", action="store_true", help="only what a usual test run compiles")
    names = [target.name for target in TARGETS]
    parser.add_argument("--target", action="append", default=[], choices=names, help="only for this processor, may be repeated")
    parser.add_argument("--json", action="store_true", help="a JSON array in place of the tables")
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
        print("", *totals(found), sep="\n")
    return 1 if any(report.problems for report in found) else 0


if __name__ == "__main__":
    sys.exit(main())
