"""Measurements as JSON: numbers in SI units, named with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from .kernels import CaseTime
from .peaks import Peaks
from .throughput import Pass
from .timing import OpTime


def throughput(passes: Sequence[Pass]) -> dict[str, Any]:
    """The results of repeated passes over one workload; counts are those of the first, which all share."""
    first = passes[0]
    return {
        "records": first.records,
        "failed": first.failed,
        "tokens": {"prompt": first.prompt_tokens, "output": first.output_tokens, "cached": first.cached_tokens},
        "repeat": len(passes),
        "run_s": spread(p.seconds for p in passes),
        "requests_per_s": spread((p.records - p.failed) / p.seconds for p in passes),
        "prompt_tokens_per_s": spread(p.prompt_tokens / p.seconds for p in passes),
        "output_tokens_per_s": spread(p.output_tokens / p.seconds for p in passes),
        "total_tokens_per_s": spread((p.prompt_tokens + p.output_tokens) / p.seconds for p in passes),
        "first_token_s": spread(p.first_token_s for p in passes),
        "steps": first.steps,
        "step_ms": spread(1e3 * p.seconds / p.steps for p in passes),
        "preemptions": first.preemptions,
        "peak_kv_usage": rounded(first.peak_kv_usage),
        "output_sha256": first.sha256,
        "same_output": len({p.sha256 for p in passes}) == 1,
    }


def peaks(found: Peaks) -> dict[str, Any]:
    """The rates that the machine reached."""
    return {"gemm_gflops_per_s": {name: giga(value) for name, value in found.gemm.items()}, "read_gb_per_s": giga(found.read)}


def kernels(times: Iterable[CaseTime]) -> list[dict[str, Any]]:
    """One object a case; `speedup` is the reference's time over the backend's."""
    return [
        {
            "name": one.name,
            "rows": one.rows,
            "us": rounded(1e6 * one.seconds),
            **rates(one),
            "reference_us": rounded(1e6 * one.reference_seconds) if one.reference_seconds is not None else None,
            "speedup": rounded(one.reference_seconds / one.seconds) if one.reference_seconds is not None else None,
        }
        for one in times
    ]


def rates(time: OpTime | CaseTime) -> dict[str, float | None]:
    """Arithmetic and traffic a second; None where nothing is counted."""
    amounts = {"gflops_per_s": time.flops, "gb_per_s": time.bytes}
    return {name: giga(amount / time.seconds) if amount and time.seconds else None for name, amount in amounts.items()}


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
