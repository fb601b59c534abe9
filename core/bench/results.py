"""Measurements as JSON: numbers in SI units, named with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from .breakdown import Achieved, achieved, parts
from .kernels import CaseTime
from .peaks import Peaks
from .throughput import Pass, TimedPass


@dataclass(frozen=True)
class Timed:
    """The instrumented pass and what is needed to read it."""

    timed: TimedPass
    peaks: Peaks
    dtype: str
    vocab_size: int


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


def breakdown(one: Timed) -> dict[str, Any]:
    """The seconds of the instrumented pass by part, and each operation of the backend by shape, the longest first."""
    whole = one.timed.whole
    ops = sorted(one.timed.ops.items(), key=lambda item: -item[1].seconds)
    return {
        "run_s": rounded(whole.seconds),
        "steps": whole.steps,
        "parts": [
            {
                "name": part.name,
                "seconds": rounded(part.seconds),
                "ms_per_step": rounded(1e3 * part.seconds / whole.steps),
                "share": rounded(part.seconds / whole.seconds),
            }
            for part in parts(one.timed, one.vocab_size)
        ],
        "ops": [
            {
                "name": key.name,
                "features": key.features,
                "calls": time.calls,
                "seconds": rounded(time.seconds),
                "gflops_per_s": _giga(time.flops, time.seconds),
                "gb_per_s": _giga(time.bytes, time.seconds),
            }
            for key, time in ops
        ],
        "achieved": {name: _achieved(a) for name, a in achieved(one.timed, one.peaks, one.dtype, one.vocab_size).items()},
        "peaks": peaks(one.peaks),
    }


def peaks(found: Peaks) -> dict[str, Any]:
    """The rates that the machine reached."""
    gemm = {name: rounded(value / 1e9) for name, value in found.gemm.items()}
    return {"gemm_gflops_per_s": gemm, "read_gb_per_s": rounded(found.read / 1e9)}


def kernels(times: Iterable[CaseTime]) -> list[dict[str, Any]]:
    """One object a case; `speedup` is the reference's time over the backend's."""
    return [
        {
            "name": one.name,
            "rows": one.rows,
            "us": rounded(1e6 * one.seconds),
            "gflops_per_s": _giga(one.flops, one.seconds),
            "gb_per_s": _giga(one.bytes, one.seconds),
            "reference_us": rounded(1e6 * one.reference_seconds) if one.reference_seconds is not None else None,
            "speedup": rounded(one.reference_seconds / one.seconds) if one.reference_seconds is not None else None,
        }
        for one in times
    ]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most."""
    found = list(values)
    return {"median": rounded(median(found)), "min": rounded(min(found)), "max": rounded(max(found))}


def rounded(value: float) -> float:
    """To six significant digits: no measurement has more."""
    return float(f"{value:.6g}")


def _achieved(one: Achieved) -> dict[str, Any]:
    shares: Mapping[str, float | None] = {"share_of_gemm_peak": one.flops_share, "share_of_read_peak": one.bytes_share}
    return {
        "gflops_per_s": rounded(one.flops_per_s / 1e9),
        "gb_per_s": rounded(one.bytes_per_s / 1e9),
        **{name: None if share is None else rounded(share) for name, share in shares.items()},
    }


def _giga(amount: int, seconds: float) -> float | None:
    """Billions a second; None where nothing is counted."""
    return rounded(amount / seconds / 1e9) if amount and seconds else None
