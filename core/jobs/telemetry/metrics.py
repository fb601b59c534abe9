"""Metrics of a run: names, types and values, and the text that Prometheus reads.

Names and units are as Prometheus wants them: base units, counters end in `_total`. Every series has the labels `command` and `output`,
so that the files of several runs can lie in one folder of the node exporter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ...engine.stats import EngineStats
from ..stats import JobStats, peak_memory

#: How the text begins: what else is in the place of a file of metrics is not ours.
BEGINNING = b"# HELP infer_"

Labels = Mapping[str, str]


class Sample(NamedTuple):
    """One value, or those by label."""

    name: str
    kind: str
    help: str
    values: tuple[tuple[Labels, float], ...]


@dataclass(frozen=True)
class Run:
    """What every series is labelled with, and what of a run its counts do not know.

    Args:
        begun: when, in seconds since 1970.
        exit_code: None while it goes on.
    """

    command: str
    output: str
    begun: float
    exit_code: int | None = None


def samples(stats: JobStats, run: Run) -> list[Sample]:
    """All metrics as they are now."""
    engine = stats.engine or EngineStats()
    found = [
        _gauge("job_running", "1 while the run goes on.", float(run.exit_code is None)),
        _gauge("job_start_time_seconds", "When the run began, since 1970.", run.begun),
        _gauge("job_updated_timestamp_seconds", "When these numbers were true, since 1970.", time.time()),
        _gauge("job_run_seconds", "From the first record admitted until now, or the end.", stats.run_s or 0.0),
        _gauge("job_attempts", "Attempts at the job, this one included.", stats.attempts),
        _by("records_total", "Records that are done.", "result", {"answered": stats.num_answered, "failed": stats.num_failed}),
        _by("errors_total", "Records that failed.", "code", stats.errors),
        _counter("input_bytes_total", "Bytes of input lines that are done.", stats.bytes_done),
        _counter("prompt_tokens_total", "Prompt tokens of answered records.", stats.prompt_tokens),
    ]
    if stats.pools:
        found.append(_counter("texts_total", "Texts that were read.", stats.num_texts))
    else:
        found += [
            _counter("output_tokens_total", "Output tokens of answered records.", stats.output_tokens),
            _by("finish_reasons_total", "Outputs by the reason they ended.", "reason", stats.finish_reasons),
            _counter("cached_tokens_total", "Prompt tokens that the prefix cache had.", engine.num_cached_tokens),
            _counter("preemptions_total", "Sequences whose KV blocks were taken away.", engine.num_preemptions),
            _gauge("kv_cache_usage_ratio", "Share of KV blocks in use, 0 to 1.", engine.kv_usage),
            _gauge("kv_cache_peak_usage_ratio", "The largest share so far.", engine.peak_kv_usage),
        ]
    found += [
        _counter("steps_total", "Steps of the engine.", engine.num_steps),
        _counter("computed_tokens_total", "Tokens that went through the model.", engine.num_computed_tokens),
        _gauge("sequences_running", "Sequences in the last step.", engine.num_running),
        _gauge("sequences_waiting", "Sequences that wait for their first step.", stats.num_waiting),
        _gauge("requests_open", "Requests in the engine.", stats.num_open),
        _gauge("rows_held", "Rows that wait for an earlier one.", stats.num_held),
        _gauge("memory_peak_bytes", "Most memory the process had resident.", peak_memory()),
    ]
    if run.exit_code is not None:
        found.append(_gauge("job_exit_code", "Exit status of the run.", run.exit_code))
    return [
        one._replace(values=tuple(({"command": run.command, "output": run.output, **labels}, value) for labels, value in one.values))
        for one in found
    ]


def text(found: Iterable[Sample]) -> bytes:
    """In Prometheus' text format."""
    lines = []
    for one in found:
        lines += [f"# HELP {one.name} {one.help}", f"# TYPE {one.name} {one.kind}"]
        for labels, value in one.values:
            inside = ",".join(f'{name}="{_escaped(told)}"' for name, told in labels.items())
            lines.append(f"{one.name}{{{inside}}} {value:.17g}")
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _plain(kind: str) -> Callable[[str, str, float], Sample]:
    def make(name: str, about: str, value: float) -> Sample:
        return Sample(f"infer_{name}", kind, about, (({}, float(value)),))

    return make


_gauge, _counter = _plain("gauge"), _plain("counter")


def _by(name: str, about: str, label: str, values: Mapping[str, int]) -> Sample:
    return Sample(f"infer_{name}", "counter", about, tuple(({label: key}, float(value)) for key, value in sorted(values.items())))
