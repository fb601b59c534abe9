"""Measurements as JSON: numbers in SI units, named with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from ..engine.stats import EngineStats
from ..jobs.stats import JobStats
from .peaks import Peaks
from .timing import OpTime


def throughput(passes: Sequence[JobStats]) -> dict[str, Any]:
    """The results of repeated passes over one workload; counts are those of the first, which all share."""
    first = passes[0]
    engine = engine_of(first)
    return {
        "records": first.num_records,
        "failed": first.num_failed,
        "tokens": {"prompt": first.prompt_tokens, "output": first.output_tokens, "cached": engine.num_cached_tokens},
        "repeat": len(passes),
        "run_s": spread(map(seconds, passes)),
        "requests_per_s": spread(p.num_answered / seconds(p) for p in passes),
        "prompt_tokens_per_s": spread(p.prompt_tokens / seconds(p) for p in passes),
        "output_tokens_per_s": spread(p.output_tokens / seconds(p) for p in passes),
        "total_tokens_per_s": spread((p.prompt_tokens + p.output_tokens) / seconds(p) for p in passes),
        "first_token_s": spread(map(_first_token_s, passes)),
        "steps": engine.num_steps,
        "step_ms": spread(1e3 * seconds(p) / engine_of(p).num_steps for p in passes),
        "preemptions": engine.num_preemptions,
        "peak_kv_usage": rounded(engine.peak_kv_usage),
        "output_sha256": first.output_sha256,
        "same_output": len({p.output_sha256 for p in passes}) == 1,
    }


def seconds(one: JobStats) -> float:
    """From the first record admitted to the last row written."""
    assert one.run_s is not None, "something was answered"
    return one.run_s


def engine_of(one: JobStats) -> EngineStats:
    """The engine's part of a pass."""
    assert one.engine is not None, "something was answered"
    return one.engine


def _first_token_s(one: JobStats) -> float:
    """From the first record admitted to the first token drawn."""
    assert one.first_token_at is not None and one.admitted_at is not None, "something was answered"  # noqa: PT018
    return one.first_token_at - one.admitted_at


def peaks(found: Peaks) -> dict[str, Any]:
    """The rates that the machine reached."""
    return {"gemm_gflops_per_s": {name: giga(value) for name, value in found.gemm.items()}, "read_gb_per_s": giga(found.read)}


def rates(work: OpTime, took: float) -> dict[str, float | None]:
    """Arithmetic and traffic a second; None where nothing is counted."""
    amounts = {"gflops_per_s": work.flops, "gb_per_s": work.bytes}
    return {name: giga(amount / took) if amount and took else None for name, amount in amounts.items()}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most."""
    found = list(values)
    return {"median": rounded(median(found)), "min": rounded(min(found)), "max": rounded(max(found))}


def rounded(value: float) -> float:
    """To six significant digits: no measurement has more."""
    return float(f"{value:.6g}")


def giga(rate: float) -> float:
    """A rate in billions."""
    return rounded(rate / 1e9)
