"""Breakdown of a pass: the time of each part, and what each operation achieved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .peaks import Peaks
from .throughput import TimedPass
from .timing import OpKey, OpTime

#: Operations that are linear layers or attention; what else runs in the model is row-wise (norms, rotation, activation...).
LINEAR = frozenset({"linear", "linear_int8"})
ATTENTION = frozenset({"plan_attention", "attention", "plan_segments", "segment_attention"})
#: Operations of the sampler, whose time is a stage of its own.
SAMPLING = frozenset({"sample", "top_logprobs", "processed_logits"})


@dataclass(frozen=True)
class Part:
    """Seconds of one part of a pass."""

    name: str
    seconds: float


def parts(timed: TimedPass, vocab_size: int) -> list[Part]:
    """All seconds of the pass, in the order in which a record meets them. `vocab_size` tells lm_head from other linear layers."""
    stages, outer, ops = defaultdict(float, timed.stages), timed.outer, timed.ops
    model = [(key, time) for key, time in ops.items() if key.name not in SAMPLING]
    heads = [pair for pair in model if is_head(pair[0], vocab_size)]
    linear = [pair for pair in model if pair[0].name in LINEAR and not is_head(pair[0], vocab_size)]
    attention = [pair for pair in model if pair[0].name in ATTENTION]
    rows = [pair for pair in model if pair[0].name not in LINEAR | ATTENTION]
    return [
        Part("read", outer["read"]),
        Part("tokenize", outer["tokenize"]),
        Part("admit", outer["admit"]),
        Part("schedule", stages["schedule"]),
        Part("batch", stages["batch"]),
        Part("attention", _seconds(attention)),
        Part("linear", _seconds(linear)),
        Part("lm_head", _seconds(heads)),
        Part("row_wise", _seconds(rows)),
        Part("model_rest", _rest(stages["model"], _seconds(model))),
        Part("sample", stages["sample"]),
        Part("commit", stages["commit"]),
        Part("detokenize", stages["detokenize"]),
        Part("step_rest", _rest(outer["step"], sum(stages.values()))),
        Part("write", _rest(timed.whole.seconds, sum(outer.values()))),
    ]


def is_head(key: OpKey, vocab_size: int) -> bool:
    """True if an operation is the output head."""
    return key.name in LINEAR and key.features is not None and key.features[1] == vocab_size


@dataclass(frozen=True)
class Achieved:
    """The rates that some operations reached together, in SI units; shares are of the measured peaks."""

    seconds: float
    flops_per_s: float
    bytes_per_s: float
    flops_share: float | None
    bytes_share: float | None


def achieved(timed: TimedPass, peaks: Peaks, dtype: str, vocab_size: int) -> dict[str, Achieved]:
    """Of the linear layers (weights read once a call), the head and attention (keys and values read once a call)."""
    groups: dict[str, list[tuple[OpKey, OpTime]]] = {"linear": [], "lm_head": [], "attention": []}
    for key, time in timed.ops.items():
        if key.name in LINEAR:
            groups["lm_head" if is_head(key, vocab_size) else "linear"].append((key, time))
        elif key.name in ("attention", "segment_attention"):
            groups["attention"].append((key, time))
    return {name: _achieved(group, peaks, dtype) for name, group in groups.items() if group}


def _achieved(group: list[tuple[OpKey, OpTime]], peaks: Peaks, dtype: str) -> Achieved:
    seconds = _seconds(group) or 1e-9
    # Seconds the same arithmetic takes at the measured peak of each operation's type; a mixture has no other peak.
    ideal = [time.flops / peak if (peak := peaks.gemm.get(peak_of(key, dtype))) else None for key, time in group]
    flops, size = sum(time.flops for _, time in group), sum(time.bytes for _, time in group)
    known = [one for one in ideal if one is not None]
    return Achieved(
        seconds=seconds,
        flops_per_s=flops / seconds,
        bytes_per_s=size / seconds,
        flops_share=sum(known) / seconds if len(known) == len(ideal) else None,
        bytes_share=size / seconds / peaks.read if peaks.read else None,
    )


def peak_of(key: OpKey, dtype: str) -> str:
    """The type whose multiplication bounds an operation of a model in `dtype`."""
    return "int8" if key.name == "linear_int8" else dtype


def _seconds(group: Iterable[tuple[OpKey, OpTime]]) -> float:
    return sum(time.seconds for _, time in group)


def _rest(whole: float, counted: float) -> float:
    """The rest of a time after its counted parts, whose clocks may differ slightly."""
    return max(0.0, whole - counted)
