"""Measurements from end to end: settings in, a JSON object of figures out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..build.generating import DTYPES, load_kernels
from ..build.plan import Plan, find_model
from ..engine.engine import Engine
from ..errors import ConfigError
from ..jobs.stats import JobStats, peak_memory, process_start, versions
from ..jobs.tasks.base import Task
from ..settings.args import EngineArgs
from ..spec.read import read_spec
from . import breakdown as breakdowns
from . import results
from .kernels import ROWS, SHAPES, measure
from .peaks import Peaks, measure_peaks
from .throughput import Throughput
from .workload import RandomLengths, Workload


def measure_throughput(
    plan: Plan,
    make_task: Callable[[Plan], Task],
    workload: Workload,
    *,
    warmup: int = 1,
    repeat: int = 3,
    breakdown: bool = True,
    on_pass: Callable[[str, JobStats], None] = lambda name, one: None,
) -> dict[str, Any]:
    """Loads the model and answers `workload` again and again; JSON.

    Args:
        warmup, repeat: passes before those that count, and those.
        breakdown: one more pass, instrumented, and a measurement of what the machine can reach at all.
        on_pass: told of each pass when it is over, by its name ("warm-up 1 of 1").

    Raises InferError.
    """
    bench = Throughput(plan, make_task)

    def repeated(name: str, count: int) -> list[JobStats]:
        passes = []
        for i in range(count):
            passes.append(bench.run(workload))
            on_pass(f"{name} {i + 1} of {count}", passes[-1])
        return passes

    repeated("warm-up", warmup)
    passes = repeated("pass", repeat)
    told = {
        "workload": workload.name,
        "warmup": warmup,
        **results.throughput(passes),
        "startup_s": results.rounded(bench.ready_at - process_start()),
        "load_s": results.rounded(bench.load_s),
        "memory": _memory(bench, passes[0]),
        "breakdown": None,
    }
    if breakdown:
        timed = bench.run_timed(workload)
        on_pass("breakdown", timed.job)
        # After the memory was looked at: large multiplications need large tensors.
        told["breakdown"] = breakdowns.breakdown(timed, peaks_of(bench), plan.config.dtype, bench.engine.vocab_size)
    return {**told, "settings": plan.config.to_dict(), "versions": versions()}


def peaks_of(bench: Throughput) -> Peaks:
    """Measured in each type that the engine may multiply in."""
    config = bench.plan.config
    dtypes = {name: DTYPES[name] for name in dict.fromkeys((config.dtype, "float32", "bfloat16"))}
    return measure_peaks(bench.ops, dtypes, torch.device(config.device))


def random_workload(lengths: RandomLengths, plan: Plan) -> Workload:
    """Random records for the plan's model, the same for the same --seed. Raises ConfigError if they are too long for it."""
    most = plan.config.max_model_len
    if lengths.most_tokens > most:
        long = f"random records have up to {lengths.most_tokens:,} tokens"
        raise ConfigError(f"{long}, and max_model_len is {most:,}; lower --input-len or --output-len")
    vocab_size, avoid = plan.vocab_size, frozenset[int]()
    if plan.tokenizer is not None:
        vocab_size, avoid = min(vocab_size, plan.tokenizer.vocab_size), plan.tokenizer.special_ids
    return Workload.of_random(lengths, vocab_size=vocab_size, avoid=avoid, seed=plan.config.seed)


def measure_kernels(args: EngineArgs, rows: Sequence[int] = (), *, given: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Each operation at each number of rows (none: `kernels.ROWS`), in the shapes of the model if one is named; JSON.

    Raises InferError.
    """
    spec = find_model(args).spec(args.hf_overrides) if args.model else read_spec(SHAPES)
    config = args.resolve(spec, given=given)
    device, dtype = torch.device(config.device), DTYPES[config.dtype]
    ops = load_kernels(config, device)
    times = list(measure(ops, spec, dtype, device, rows or ROWS))  # before the peaks, whose tensors are large
    peaks = measure_peaks(ops, {config.dtype: dtype}, device)
    return {
        "model": args.model or None,
        "kernels": ops.name,
        "dtype": config.dtype,
        "device": config.device,
        "threads": torch.get_num_threads(),
        "ops": times,
        "peaks": results.peaks(peaks),
        "versions": versions(),
    }


def _memory(bench: Throughput, one: JobStats) -> dict[str, Any]:
    """Bytes resident at most and now, and of the KV cache those that held something at once."""
    assert isinstance(bench.engine, Engine), "the model writes"
    blocks, per_token = bench.engine.scheduler.blocks, bench.plan.kv_bytes_per_token()
    in_use = None if per_token is None else round(results.engine_of(one).peak_kv_usage * blocks.num_usable) * blocks.block_size * per_token
    return {"peak_bytes": peak_memory(), "end_bytes": _resident(), "kv_in_use_bytes": in_use}


def _resident() -> int | None:
    """Bytes of this process in memory; None where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
