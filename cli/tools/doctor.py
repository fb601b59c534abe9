"""`infer doctor`: what there is on this machine to run on."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from infer.core.errors import ConfigError
from infer.core.settings.args import EngineArgs

from ..commands import library_versions
from ..options import Command, engine_options
from ..report import set_up_logging
from ..terminal import messages, streams
from ..terminal.table import counted, table
from .invariance import OF_INVARIANCE, check_invariance


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.option("--invariance", is_flag=True, help="Prove that answers depend on nothing but the record, see above.")
@partial(engine_options, without=frozenset(EngineArgs.settings()) - OF_INVARIANCE)
def doctor(*, as_json: bool, invariance: bool) -> int:
    """Show what this machine has to run on: device, CPU, threads, memory, compiler, kernels, library versions.

    Compiles the CPU kernels if they are not there yet. What makes runs slower than they need be is said on stderr, and
    is no failure: the exit status is 1 only if nothing would run here.

    With --invariance it answers the same records alone, in batches of 2 to 2,048, in chunks, with cached prefixes, preempted,
    by several threads and lanes, and compares every bit. Without --model a small random model is tried in each type and scheme this machine
    has; with it, that model as its options say. The exit status is 1 if anything differs.

    \b
    infer doctor
    infer doctor --json | jq -r .kernels.backend
    infer doctor --invariance
    infer doctor --invariance --model smollm2-135m --quantization int8
    """
    set_up_logging(quiet=False, verbose=0)
    if invariance:
        return check_invariance(as_json=as_json)
    found = examine()
    streams.write(streams.to_json(found, indent=1) + "\n" if as_json else table(list(_rows(found))))
    for warning in found["warnings"]:
        messages.say(warning, level="warning", label="warning: ")
    if found["error"]:
        messages.say(found["error"], event="error", level="error", label="Error: ", exit_code=1)
    return 1 if found["error"] else 0


def examine() -> dict[str, Any]:
    """All that is shown, as JSON. `error` is why nothing would run, `warnings` what would be slow."""
    from infer.core.settings.threads import choose_threads
    from infer.kernels.features import SHOWN, features, model_name

    threads = choose_threads(None)
    found: dict[str, Any] = {
        "cpu": {"model": model_name(), "instruction_sets": [name for name in SHOWN if name in features()]},
        "threads": {"count": threads.count, "cores": threads.cores, "limit": threads.limit or None},
        "versions": library_versions(),
        "warnings": [],
        "error": None,
    }
    try:
        import torch  # noqa: F401
    except Exception as error:  # whatever a broken installation raises
        return found | {"error": f"torch cannot be imported: {error}"}
    found |= _device() | _compiled()
    if found["kernels"]["error"]:
        found["warnings"].append(f"runs on the CPU are much slower without compiled kernels: {found['kernels']['error']}")
    return found


def _device() -> dict[str, Any]:
    import torch

    from infer.core.memory.kv_cache import free_memory
    from infer.core.settings.hardware import choose_device, choose_kernels, has_bfloat16, usual_dtype

    try:
        device, warnings = choose_device("auto", []), []
    except (ConfigError, RuntimeError) as error:
        device, warnings = "cpu", [f"the GPU cannot be used: {error}"]
    memory = {"total": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "free": free_memory(torch.device("cpu"))}
    found: dict[str, Any] = {"device": device, "gpus": [], "gpu_kernels": None, "memory": memory, "bfloat16": has_bfloat16(device)}
    found["dtype"] = dict(zip(("auto", "reason"), usual_dtype(device), strict=True))
    if device != "cpu":
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        backend, build = choose_kernels("auto", device, warnings, require=False, build=False)
        found["gpu_kernels"] = {"backend": backend, "build": build, "fp8": _fp8(backend)}
    return found | {"warnings": warnings}


def _fp8(backend: str) -> str | None:
    """The parts of a product of 8-bit floats that stay in 8 bits on the GPU: "weights and rows", or "weights"; None with plain torch."""
    import torch

    from infer import kernels

    if backend == "reference":
        return None
    refusal = kernels.load(backend).fp8_refusal((16, 16), (1, 16), torch.bfloat16, quantize_input=True)
    return "weights" if refusal else "weights and rows"


def _compiled() -> dict[str, Any]:
    """The compiler, the kernels it makes (now, if they are not there yet), and what these can do."""
    from infer import kernels
    from infer.kernels.cpu import build, cache, gemm
    from infer.kernels.cpu.library import library

    told: dict[str, Any] = {"backend": "reference", "file": None, "compile_seconds": None, "error": None, "instructions": None}
    try:
        told["cache"] = str(cache.cache_folder())
    except cache.Unsafe:
        told["cache"] = None
    compiler = None
    try:
        best = build.compilers()[0]
        compiler = {"command": best.name, "version": best.version()}
    except build.BuildError:
        pass  # what was compiled before may still be there
    try:
        ours = library()
        told |= {"backend": "cpu", "file": str(ours.path), "compile_seconds": ours.compile_seconds}
        told["instructions"] = dataclasses.asdict(gemm.instructions())
    except build.BuildError as error:
        told["error"] = str(error)
    ops, ours_runs = kernels.load(told["backend"]), told["backend"] == "cpu"
    packed = ours_runs and not ops.grouped_refusal(32, 32, quantize_input=True)
    return {"compiler": compiler, "kernels": told, "int8": ours_runs and ops.supports_int8(), "packed_weights": packed}


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, value) for a person."""
    cpu, threads = found["cpu"], found["threads"]
    if "device" in found:
        yield "device", ", ".join([found["device"], *found["gpus"]])
    yield "CPU", cpu["model"]
    yield "instruction sets", " ".join(cpu["instruction_sets"]) or "unknown"
    limit = f" ({threads['limit']})" if threads["limit"] else ""
    yield "threads", f"{threads['count']} on {counted(threads['cores'], 'core')}{limit}"
    if "device" in found:
        yield "memory", f"{_gib(found['memory']['total'])}, {_gib(found['memory']['free'])} free"
        yield "--dtype auto", f"{found['dtype']['auto']} for a checkpoint in bfloat16: {found['dtype']['reason']}"
        yield "int8", "yes" if found["int8"] else "no"
        stay = "stay packed; rows in int8, or in the model's type with --activation-dtype model"
        yield "packed weights", stay if found["packed_weights"] else "become plain, in the model's type"
        compiler = found["compiler"]
        yield "compiler", f"{compiler['command']}: {compiler['version']}" if compiler else "none"
        yield "CPU kernels", _kernels(found["kernels"])
        yield from _instructions(found["kernels"]["instructions"] or {})
        yield "kernel cache", found["kernels"]["cache"] or "none"
        if found["gpu_kernels"]:
            yield "GPU kernels", found["gpu_kernels"]["build"] or "reference (plain torch)"
            if found["gpu_kernels"]["fp8"]:
                yield "GPU, packed", f"4 and 8 bits stay packed; of fp8 {found['gpu_kernels']['fp8']} do"
    yield from found["versions"].items()


def _kernels(told: dict[str, Any]) -> str:
    if told["backend"] == "reference":
        return "reference (plain torch)"
    by = f" by {told['instructions']['compiler']}"
    seconds = told["compile_seconds"]
    return f"compiled{by}" if seconds is None else f"compiled now{by}, in {seconds:.1f} s"


def _instructions(told: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The instructions of the compiled kernels; nothing where there are none."""
    if told:
        parts = ("float32", "bfloat16", "int8")
        yield "products", "; ".join(f"{name}: {told[name]}" for name in parts)
        yield "attention", "; ".join(f"{name}: {told[f'attention_{name}']}" for name in parts)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
