"""Findings of a check of the input, written to stdout: the body of `infer check` and of --dry-run."""

from __future__ import annotations

import dataclasses
import glob
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .signals import Signals
from .terminal import messages, streams
from .terminal.progress import Progress
from .terminal.table import bars, clock, counted, table

if TYPE_CHECKING:
    from infer.core.build.plan import Plan
    from infer.core.engine.limits import Limits
    from infer.core.jobs.check import Findings
    from infer.core.jobs.record import Record
    from infer.core.jobs.spec import JobSpec
    from infer.core.jobs.tasks.auto import Auto
    from infer.core.jobs.tasks.protocol import AnyTask
    from infer.core.settings.args import EngineArgs
    from infer.core.settings.config import EngineConfig

#: Where Linux shows GPUs (WSL's too).
_GPUS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")
#: Characters of a message that are shown; --json has all of it.
_MESSAGE = 160


def check_input(
    spec: JobSpec,
    *,
    auto: Callable[[Plan], Auto] | None = None,
    as_json: bool = False,
    tokens_per_second: float | None = None,
) -> int:
    """Reads all of the inputs of `spec`, says what a run would make of them and returns what its exit code would be, 0 or 3.

    `auto` gives the tasks that may be meant, where nobody says which. Raises InferError, Interrupted, BrokenPipeError.
    """
    from infer.core.build.plan import make_plan
    from infer.core.engine.limits import Limits
    from infer.core.jobs.check import Findings, check
    from infer.core.jobs.input.inputs import Inputs
    from infer.core.jobs.input.reader import RecordReader
    from infer.core.jobs.tasks.auto import Auto

    io = spec.io
    said: set[str] = set()

    def once(text: str) -> None:
        if text not in said and not io.quiet:
            said.add(text)
            messages.say(text, label="note: ")

    findings = Findings()
    progress = Progress(quiet=io.quiet, interval=io.progress_interval)
    with Signals(on_second=progress.close) as signals, ExitStack() as stack:
        inputs = Inputs(io.inputs, io.input_format, state_dir=io.state_dir)
        stack.callback(inputs.close)
        size = inputs.size
        plan = make_plan(_without_torch(spec.args), given=spec.origin, compile_kernels=False)
        for note in plan.config.notes:
            once(note)
        reader = RecordReader(inputs.sources, io.max_line_bytes, selection=io.selection)
        tasks = Auto(spec.task) if auto is None else auto(plan)
        tasks.otherwise.settled(plan, once)  # a model that cannot do it is refused at once
        limits = plan.limits()

        def task_for(first: Record) -> AnyTask:
            return tasks.of(first).settled(plan, once).make_task(plan, warn=once)

        def show() -> None:
            if progress.due() or signals.status_wanted():
                share = min(reader.bytes_read / size, 1.0) if size else None
                text = f"{counted(findings.num_records, 'record')} checked" + ("" if share is None else f" ({share:.0%})")
                text += f" | ETA {clock((time.monotonic() - started) * (1 - share) / share)}" if share else ""
                text += f" | {findings.num_failed:,} would fail"
                progress.show(text, share, records=findings.num_records, errors=findings.num_failed)

        started = time.monotonic()
        stack.callback(progress.close)
        progress.begin()
        check(reader, task_for, limits, findings=findings, on_progress=show)
    need = _kv_numbers(findings, plan, limits) if isinstance(limits, Limits) else None
    if as_json:
        told = findings.to_json() | {"kv_cache": need, "time_s": _seconds(findings, need, tokens_per_second)}
        streams.write(streams.to_json(told, indent=1) + "\n")
    else:
        streams.write("".join(_text(findings, need, plan.config, tokens_per_second)))
    return findings.exit_code


def _without_torch(args: EngineArgs) -> EngineArgs:
    """The same settings, decided without asking torch for a GPU where the system plainly has none."""
    if args.device == "auto" and sys.platform == "linux" and not any(map(glob.glob, _GPUS)):
        return dataclasses.replace(args, device="cpu")
    return args


def _kv_numbers(findings: Findings, plan: Plan, limits: Limits) -> dict[str, Any]:
    """Needs of the KV cache: tokens in whole blocks, and bytes where the model says how many a token takes; with the states of sequences,
    of a model that keeps some."""
    per_token, per_sequence = plan.kv_bytes_per_token(), plan.state_bytes_per_sequence()

    def need(tokens: int | None, times: int = 1) -> dict[str, int | None]:
        held = None if tokens is None else limits.blocks_for(tokens) * limits.block_size * times
        size = None if held is None or per_token is None else held * per_token + times * per_sequence
        return {"tokens": held, "bytes": size}

    place, length = findings.largest or (None, None)
    at_once = min(plan.config.max_num_seqs, findings.sequences.count)
    return {
        "bytes_per_token": per_token,
        **({"state_bytes_per_sequence": per_sequence} if per_sequence else {}),
        "largest_record": {**(place.to_json() if place else {}), **need(length)},
        "typical_batch": {"sequences": at_once, **need(findings.sequences.percentile(50), at_once)},
        "given_tokens": None if limits.num_blocks is None else limits.num_blocks * limits.block_size,
    }


def _seconds(findings: Findings, need: dict[str, Any] | None, tokens_per_second: float | None) -> float | None:
    """Without a KV cache nothing is written: what takes the time is then to read."""
    tokens = findings.prompts.total if need is None else findings.max_output_tokens
    return None if tokens_per_second is None else round(tokens / tokens_per_second, 1)


def _text(findings: Findings, need: dict[str, Any] | None, config: EngineConfig, tokens_per_second: float | None) -> Iterator[str]:
    """The sections of the report."""
    failed = findings.num_failed
    blank = f", {counted(findings.num_blank, 'blank line')} skipped" if findings.num_blank else ""
    yield f"{counted(findings.num_records, 'record')}: {findings.num_records - failed:,} would be answered, {failed:,} would fail{blank}\n"
    if failed:
        yield "\nerrors\n" + table(list(_error_rows(findings)), right=frozenset({1}), indent="  ")
    if findings.errors["prompt_too_long"]:
        yield f"  the longest prompt has {findings.tokenized.max:,} tokens; max_model_len is {config.max_model_len:,}\n"
    if findings.tokenized.count:
        good = counted(findings.prompts.count, "good record" if need is not None else "text")
        yield f"\nprompt tokens: {findings.prompts.total:,} in {good}\n"
        if findings.prompts.count:
            yield "  " + ", ".join(f"{name} {value:,}" for name, value in findings.prompts.to_json().items()) + "\n"
        yield bars(findings.tokenized.buckets())
        if findings.tokenized.count > findings.prompts.count:
            yield "    (records that would fail are counted here too)\n"
    if repeats := findings.distinct.repeats:
        about = "" if findings.distinct.exact else "about "
        prompts = "prompt repeats" if repeats == 1 else "prompts repeat"
        yield f"  {about}{repeats:,} {prompts} an earlier one ({repeats / findings.distinct.count:.1%})\n"
    if findings.num_truncated:
        yield f"  {counted(findings.num_truncated, 'text')} would be cut off\n"
    if need is None:
        yield _time_text(_seconds(findings, need, tokens_per_second), tokens_per_second, "prompt")
    elif findings.prompts.count:
        yield f"\noutput tokens: at most {findings.max_output_tokens:,} in {counted(findings.sequences.count, 'output')}\n"
        yield from _kv_text(need, config, str(findings.largest[0]) if findings.largest else "")
        yield _time_text(_seconds(findings, need, tokens_per_second), tokens_per_second, "output")


def _error_rows(findings: Findings) -> Iterator[tuple[str, str, str]]:
    for code, count in findings.errors.most_common():
        place, message = findings.first_errors[code]
        message = " ".join(message.split())
        message = message if len(message) <= _MESSAGE else message[:_MESSAGE] + "…"
        yield code, f"{count:,}", f"first on {place}: {message}"


def _kv_text(need: dict[str, Any], config: EngineConfig, largest: str) -> Iterator[str]:
    def shown(part: dict[str, Any]) -> tuple[str, str]:
        size = "?" if part["bytes"] is None else f"{part['bytes'] / 2**20:,.1f} MiB"
        return f"{part['tokens']:,} tokens", size

    per_token = need["bytes_per_token"]
    what = "bytes a token unknown" if per_token is None else f"{per_token:,} bytes a token"
    if "state_bytes_per_sequence" in need:
        what += f", and {need['state_bytes_per_sequence']:,} of states for each sequence"
    kept = config.dtype if config.kv_cache_dtype == "auto" else config.kv_cache_dtype
    yield f"\nKV cache: {what} ({kept}, blocks of {config.block_size})\n"
    batch = need["typical_batch"]
    rows = [
        ("largest record", *shown(need["largest_record"]), largest),
        (f"{counted(batch['sequences'], 'median output')} at once", *shown(batch), ""),
    ]
    if need["given_tokens"] is not None:
        size = {"tokens": need["given_tokens"], "bytes": need["given_tokens"] * (per_token or 0)}
        rows.append(("given", *shown(size), ""))
    yield table(rows, right=frozenset({1, 2}), indent="  ")


def _time_text(seconds: float | None, speed: float | None, what: str) -> str:
    if seconds is None or speed is None:
        return f"\ntime: unknown; --tokens-per-second N estimates it from the {what} speed that an earlier run's summary tells\n"
    hours, minutes = divmod(math.ceil(seconds / 60), 60)
    took = f"{seconds:,.0f} s" if seconds < 120 else f"{hours:,} h {minutes} min" if hours else f"{minutes} min"
    return f"\ntime: at most about {took}, at {speed:,g} {what} tokens a second\n"
