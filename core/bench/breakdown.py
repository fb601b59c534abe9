"""Breakdown of a pass as JSON: the time of each part, and what each operation achieved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from . import results
from .peaks import Peaks
from .results import giga, rounded
from .throughput import TimedPass
from .timing import OpKey, OpTime

#: Operations that are linear layers or attention; what else runs in the model is row-wise (norms, rotation, activation...).
LINEAR = frozenset(
    {
        "linear",
        "linear_gated",
        "linear_int8",
        "linear_int8_gated",
        "linear_grouped",
        "linear_fp8",
        "linear_experts",
        "linear_experts_int8",
        "linear_experts_grouped",
    }
)
ATTENTION = frozenset({"plan_attention", "attention", "plan_segments", "segment_attention"})
#: Operations of the sampler, whose time is a stage of its own.
SAMPLING = frozenset({"sample", "top_logprobs", "processed_logits"})

Group = list[tuple[OpKey, OpTime]]


def breakdown(timed: TimedPass, peaks: Peaks, dtype: str, vocab_size: int) -> dict[str, Any]:
    """The seconds of an instrumented pass by part, and each operation of the backend by shape, the longest first.

    Args:
        vocab_size: tells lm_head from other linear layers.
    """
    groups = _grouped(timed, vocab_size)
    seconds, steps = results.seconds(timed.job), results.engine_of(timed.job).num_steps
    # Of attention the plans are left out: they read no keys and values.
    reached = {**groups, "attention": [pair for pair in groups["attention"] if not pair[0].name.startswith("plan_")]}
    return {
        "run_s": rounded(seconds),
        "steps": steps,
        "parts": [
            {
                "name": name,
                "seconds": rounded(part),
                "ms_per_step": rounded(1e3 * part / steps),
                "share": rounded(part / seconds),
            }
            for name, part in _parts(timed, groups).items()
        ],
        "ops": [
            {
                "name": key.name,
                "features": key.features,
                "calls": time.calls,
                "seconds": rounded(time.seconds),
                **results.rates(time, time.seconds),
            }
            for key, time in sorted(timed.ops.items(), key=lambda item: -item[1].seconds)
        ],
        "achieved": {name: _achieved(group, peaks, dtype) for name in ("linear", "lm_head", "attention") if (group := reached.get(name))},
        "peaks": results.peaks(peaks),
    }


def _grouped(timed: TimedPass, vocab_size: int) -> dict[str, Group]:
    """The operations of the model by the part that they belong to."""
    groups: dict[str, Group] = defaultdict(list)
    for key, time in timed.ops.items():
        if key.name in LINEAR:
            groups["lm_head" if key.features is not None and key.features[1] == vocab_size else "linear"].append((key, time))
        elif key.name not in SAMPLING:
            groups["attention" if key.name in ATTENTION else "row_wise"].append((key, time))
    return groups


def _parts(timed: TimedPass, groups: dict[str, Group]) -> dict[str, float]:
    """All seconds of the pass, in the order in which a record meets them."""
    stages, outer = results.engine_of(timed.job).seconds, timed.outer
    model = {name: _seconds(groups[name]) for name in ("attention", "linear", "lm_head", "row_wise")}
    return {
        **{name: outer[name] for name in ("read", "tokenize", "admit")},
        **{name: stages[name] for name in ("schedule", "batch")},
        **model,
        "model_rest": _rest(stages["model"], sum(model.values())),
        **{name: stages[name] for name in ("sample", "commit", "detokenize")},
        "step_rest": _rest(outer["step"], sum(stages.values())),
        "write": _rest(results.seconds(timed.job), sum(outer.values()) - timed.before),
    }


def _achieved(group: Group, peaks: Peaks, dtype: str) -> dict[str, Any]:
    """The rates that some operations reached together; weights, keys and values are read once a call."""
    seconds = _seconds(group) or 1e-9
    # Seconds the same arithmetic takes at the measured peak of each operation's type; a mixture has no other peak.
    ideal = [time.flops / peak if (peak := peaks.gemm.get("int8" if key.in_int8 else dtype)) else None for key, time in group]
    known = [one for one in ideal if one is not None]
    flops, size = sum(time.flops for _, time in group), sum(time.bytes for _, time in group)
    return {
        "gflops_per_s": giga(flops / seconds),
        "gb_per_s": giga(size / seconds),
        "share_of_gemm_peak": rounded(sum(known) / seconds) if len(known) == len(ideal) else None,
        "share_of_read_peak": rounded(size / seconds / peaks.read) if peaks.read else None,
    }


def _seconds(group: Iterable[tuple[OpKey, OpTime]]) -> float:
    return sum(time.seconds for _, time in group)


def _rest(whole: float, counted: float) -> float:
    """The rest of a time after its counted parts, whose clocks may differ slightly."""
    return max(0.0, whole - counted)
