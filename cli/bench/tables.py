"""Measurements as tables for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..terminal.table import counted, table

if TYPE_CHECKING:
    from infer.core.jobs.stats import JobStats

#: Name of a part in the JSON -> what it is.
PARTS = {
    "read": "read lines",
    "tokenize": "check and tokenize",
    "admit": "admit to the queue",
    "schedule": "schedule",
    "batch": "build the batch",
    "attention": "attention",
    "linear": "linear layers",
    "lm_head": "output head",
    "row_wise": "norms, rotation, activation",
    "model_rest": "rest of the model",
    "sample": "sample",
    "commit": "commit",
    "detokenize": "detokenize",
    "step_rest": "rest of the step",
    "write": "make and write rows",
}


def pass_line(name: str, one: JobStats) -> str:
    """The line that is printed at the end of each pass."""
    return f"{name}: {one.run_s:.2f} s, {one.output_per_second:,.0f} output tokens/s"


def throughput_table(told: Mapping[str, Any]) -> str:
    """All that `infer bench throughput` says at its end."""
    return "".join(_throughput(told)).rstrip()


def _throughput(told: Mapping[str, Any]) -> Iterator[str]:
    tokens, memory = told["tokens"], told["memory"]
    failed = f", {told['failed']:,} failed" if told["failed"] else ""
    yield f"\n{told['workload']}: {counted(told['records'], 'record')}{failed}, {tokens['prompt']:,} prompt tokens"
    yield f" ({tokens['cached']:,} of them cached), {tokens['output']:,} output tokens, {counted(told['steps'], 'step')}\n"
    rows = [
        ("time, s", told["run_s"], 2),
        ("requests/s", told["requests_per_s"], 2),
        ("prompt tokens/s", told["prompt_tokens_per_s"], 0),
        ("output tokens/s", told["output_tokens_per_s"], 0),
        ("tokens/s in all", told["total_tokens_per_s"], 0),
        ("first token, s", told["first_token_s"], 3),
        ("step, ms", told["step_ms"], 2),
    ]
    head = (f"{told['repeat']:,} pass{'es' * (told['repeat'] > 1)}", "median", "least", "most")
    cells = [(name, *(f"{value[key]:,.{digits}f}" for key in ("median", "min", "max"))) for name, value, digits in rows]
    yield table([head, *cells], right=frozenset({1, 2, 3}), indent="  ")
    yield f"  ready {told['startup_s']:.2f} s after the start of the process, {told['load_s']:.2f} s of it for model and engine\n"
    yield f"  memory: {_mib(memory['peak_bytes'])} at most, {_mib(memory['end_bytes'])} now, KV in use {_mib(memory['kv_in_use_bytes'])}\n"
    if not told["same_output"]:
        yield "  WARNING: the passes gave different answers\n"
    if told["breakdown"]:
        yield from _breakdown(told["breakdown"])


def _breakdown(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"\nwhere the time goes, in a pass of {told['run_s']:.2f} s with stopwatches on\n"
    cells = [(PARTS[part["name"]], f"{part['ms_per_step']:,.3f}", f"{part['share']:.1%}") for part in told["parts"]]
    yield table([("", "ms/step", "share"), *cells], right=frozenset({1, 2}), indent="  ")
    peaks = told["peaks"]
    yield f"\nachieved, and share of what this machine can do ({_limits(peaks)})\n"
    figures = [
        (
            PARTS[name],
            f"{one['gflops_per_s']:,.1f}",
            _share(one["share_of_gemm_peak"]),
            f"{one['gb_per_s']:,.2f}",
            _share(one["share_of_read_peak"]),
        )
        for name, one in told["achieved"].items()
    ]
    yield table([("", "GF/s", "", "GB/s", ""), *figures], right=frozenset({1, 2, 3, 4}), indent="  ")


def suite_table(told: Mapping[str, Any]) -> str:
    """All that `infer bench suite` says at its end."""
    return "".join(_suite(told)).rstrip()


def _suite(told: Mapping[str, Any]) -> Iterator[str]:
    passes = "one pass" if told["repeat"] == 1 else f"the median of {told['repeat']:,} passes"
    yield f"\nsuite, {told['scale']} size; seconds of {passes}\n"
    head: list[tuple[str, ...]] = [
        ("", "records", "tokens", "tokens", "seconds", "tokens", "tokens"),
        ("", "", "in", "out", "", "out/s", "all/s"),
    ]
    if any("breakdown" in one for one in told["works"]):
        head[0] += ("linear", "head", "attn", "other", "linear", "linear", "head", "head", "attn", "attn")
        head[1] += ("time", "time", "time", "time", *("peak", "read") * 3)
    yield table([*head, *map(_work, told["works"])], right=frozenset(range(1, len(head[0]))), indent="  ")
    for engine in told["engines"]:
        if engine["peaks"]:
            yield f"  limits with {engine['model']}: {_limits(engine['peaks'])}\n"
    for one in told["skipped"]:
        yield f"  {one['name']} was left out: {one['why']}\n"


def _work(one: Mapping[str, Any]) -> tuple[str, ...]:
    tokens = one["tokens"]
    cells = (
        one["name"],
        f"{one['records']:,}",
        f"{tokens['prompt']:,}",
        f"{tokens['output']:,}",
        f"{one['run_s']['median']:,.2f}",
        f"{one['output_tokens_per_s']['median']:,.0f}",
        f"{one['total_tokens_per_s']['median']:,.0f}",
    )
    if "breakdown" not in one:
        return cells
    shares, achieved = one["breakdown"]["shares"], one["breakdown"]["achieved"]
    limits = [
        _share(achieved.get(name, {}).get(key))
        for name in ("linear", "lm_head", "attention")
        for key in ("share_of_gemm_peak", "share_of_read_peak")
    ]
    return (*cells, *map(_share, shares.values()), *limits)


def _limits(peaks: Mapping[str, Any]) -> str:
    reached = ", ".join(f"{name} {value:,.0f} GF/s" for name, value in peaks["gemm_gflops_per_s"].items())
    return f"{reached}; memory {peaks['read_gb_per_s']:.1f} GB/s"


def kernels_table(told: Mapping[str, Any]) -> str:
    """All that `infer bench kernels` says."""
    head = ("operation", "rows", "us", "GF/s", "GB/s", "reference us", "speedup")
    cells = [
        (
            one["name"],
            f"{one['rows']:,}",
            *(_number(one[key]) for key in ("us", "gflops_per_s", "gb_per_s", "reference_us")),
            "" if one["speedup"] is None else f"{one['speedup']:.1f}x",
        )
        for one in told["ops"]
    ]
    title = f"{told['kernels']} on {told['device']}, {told['dtype']}, {counted(told['threads'], 'thread')}"
    return f"{title}; large operations reach {_limits(told['peaks'])}\n" + table([head, *cells], right=frozenset(range(1, 7)), indent="  ")


def host_table(told: Mapping[str, Any]) -> str:
    """All that `infer bench host` says."""
    head = ("draws", "sequences", "of them new", "ms a step", "least", "of it inputs", "launches", "recorded")
    cells = [
        (
            one["draws"],
            f"{one['sequences']:,}",
            f"{one['joining']:,}",
            *(f"{one[key]:.2f}" for key in ("ms", "least_ms", "inputs_ms")),
            *("" if (number := (one["launches"] or {}).get(key)) is None else f"{number:,}" for key in ("eager", "recorded")),
        )
        for one in told["steps"]
    ]
    title = f"host, CPU time of one thread; launches of {told['model'] or 'SmolLM2-135M'}\n"
    return title + table([head, *cells], right=frozenset(range(1, 8)), indent="  ")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 10 else f"{value:,.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**20:,.0f} MiB"
