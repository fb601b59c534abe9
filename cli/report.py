"""Reports of a run while it goes on and when it is over. stderr only; data never reaches a terminal unescaped."""

from __future__ import annotations

import logging
import time
import warnings
from collections import deque
from types import TracebackType
from typing import Any

from infer.core.jobs.stats import JobStats, peak_memory

from .terminal import messages, streams
from .terminal.messages import say
from .terminal.progress import Progress
from .terminal.table import bars, clock, counted

#: Seconds over which the speeds in a bar are taken.
_SPEED_OVER = 10.0
#: Say so when at least this share of outputs ended at a max_tokens nobody chose.
_MANY_CUT = 0.1
#: What --stats tells and the closing summary leaves out: it is known to whoever gave the command.
_NOT_IN_SUMMARY = frozenset({"command", "settings", "versions"})


class Report:
    """Everything a command tells about a run. Use as a context manager around it; `update` is the job's `on_progress`.

    Args:
        stats: the run's counts, read at each update.
        input_size: bytes of the input, if known: gives the share done and the time left.
        quiet: say nothing but that records failed (errors are raised, not reported here).
        interval: seconds between progress lines where stderr is no terminal.
        verbose: from 1 on the summary shows how long prompts and outputs were.
    """

    def __init__(
        self, stats: JobStats, *, input_size: int | None = None, quiet: bool = False, interval: float = 30.0, verbose: int = 0
    ) -> None:
        self._stats = stats
        self._size = input_size
        self._quiet, self._verbose = quiet, verbose
        self._progress = Progress(quiet=quiet, interval=interval)
        self._said: set[str] = set()
        self._speed = _Speed(min_seconds=interval)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.close()

    def set_input_size(self, size: int | None) -> None:
        """Bytes of the input, once known."""
        self._size = size

    def close(self) -> None:
        """Takes the bar away."""
        self._progress.close()

    def status(self) -> None:
        """One progress line now, whatever the interval: SIGUSR1 asked for it."""
        self._speed.note(self._stats)
        say(self._line(), event="progress", share=self._done, **self._numbers())

    def stopped(self, error: BaseException, command: str) -> None:
        """A run that did not get to its end: how far it got, and how to go on. Said even with -q: it is what to do next."""
        why = f"stopped by {error}" if isinstance(error, KeyboardInterrupt) else "stopped"
        text = f"{why} after {counted(self._stats.num_records, 'record')}; go on with: {command}"
        say(text, event="summary", level="warning", records=self._stats.num_records, resume=command)

    def say(self, text: str) -> None:
        """One message, unless -q."""
        if not self._quiet:
            say(text)

    def once(self, text: str) -> None:
        """A note or warning that is given once, however often it comes up."""
        if text not in self._said:
            self._said.add(text)
            if not self._quiet:
                say(text, label="note: ")

    def loading(self, model: str) -> None:
        """Something to look at while there is no progress yet."""
        if streams.interactive() or messages.is_json():
            self.say(f"loading {model}")

    def begin(self, *, bar: bool = True) -> None:
        """The engine is ready: from now on there is progress to show. Without `bar`, as lines even on a terminal."""
        if self._progress.begin(bar=bar):
            self._speed = _Speed(min_seconds=_SPEED_OVER)
        self._speed.note(self._stats)

    def update(self) -> None:
        """Shows progress if it is time to. Cheap otherwise."""
        if self._progress.due():
            self._show()

    def pause(self) -> None:
        """There may be nothing to do for a while: a bar shows how far it is now, since no later `update` will."""
        if self._progress.has_bar:
            self._show()

    def summary(self, *, max_tokens: int | None) -> None:
        """The closing lines, or one object. `max_tokens` is the run's default."""
        self._progress.close()
        lines = summary_lines(self._stats, max_tokens=max_tokens)
        if self._quiet and self._stats.num_failed:
            say(
                failures_line(self._stats), event="summary", level="warning", records=self._stats.num_records, errors=self._stats.num_failed
            )
        if not messages.is_json():
            for line in [*lines, *(length_lines(self._stats) if self._verbose else ())]:
                self.say(line)
        elif not self._quiet:
            told = self._stats.to_json(command="", settings={}, defaults={})
            say("\n".join(lines), event="summary", **{name: told[name] for name in told if name not in _NOT_IN_SUMMARY})

    def _show(self) -> None:
        self._speed.note(self._stats)
        done = self._done
        self._progress.show(self._line(), done, **self._numbers())

    def _line(self) -> str:
        return progress_line(self._stats, self._done, self._speed.per_second(), self._stats.seconds_left(self._size))

    @property
    def _done(self) -> float | None:
        return share_done(self._stats, self._size)

    def _numbers(self) -> dict[str, Any]:
        """The progress line's numbers, for programs."""
        stats = self._stats
        prompt, output = (round(speed, 1) for speed in self._speed.per_second())
        told = {"records": stats.num_records, "errors": stats.num_failed}
        if stats.pools:
            return told | {"prompt_tokens_per_s": prompt, "texts_per_s": output}
        kv_usage = round(stats.engine.kv_usage, 4) if stats.engine else None
        return told | {"prompt_tokens_per_s": prompt, "output_tokens_per_s": output, "kv_usage": kv_usage}


def share_done(stats: JobStats, size: int | None) -> float | None:
    """Share of the input that is answered, by bytes; None if the input's size is not known."""
    return min(stats.bytes_done / size, 1.0) if size else None


def progress_line(stats: JobStats, done: float | None, speeds: tuple[float, float], seconds_left: float | None = None) -> str:
    """The progress of the run in one line; what matters most first, since a narrow terminal cuts the rest.

    `speeds` are prompt tokens a second and output tokens, or texts where they are only read.
    """
    parts = [counted(stats.num_records, "record") + (f" ({done:.0%})" if done is not None else "")]
    if seconds_left is not None:
        parts.append(f"ETA {clock(seconds_left)}")
    parts.append(counted(stats.num_failed, "error"))
    if stats.pools:
        parts.append(f"{speeds[1]:,.0f} texts/s, {speeds[0]:,.0f} tok/s")
        return " | ".join(parts)
    parts.append(f"prompt {speeds[0]:,.0f}, output {speeds[1]:,.0f} tok/s")
    if stats.engine:
        usage = stats.engine.kv_usage
        parts.append("KV <1%" if 0 < usage < 0.01 else f"KV {usage:.0%}")
    return " | ".join(parts)


def failures_line(stats: JobStats) -> str:
    """The one line that -q leaves: that records failed, and why the exit status is what it is."""
    codes = ", ".join(f"{code} {count:,}" for code, count in stats.errors.most_common())
    return f"{stats.num_failed:,} of {counted(stats.num_records, 'record')} failed ({codes}); exit status {stats.exit_code}"


def summary_lines(stats: JobStats, *, max_tokens: int | None) -> list[str]:
    """The summary, for a person."""
    took = f" in {stats.run_s:.1f} s" if stats.run_s is not None else ""
    blank = f", {counted(stats.num_blank, 'blank line')} skipped" if stats.num_blank else ""
    if not stats.num_records:
        return [f"no records{blank}"]
    failed = f", {stats.num_failed:,} failed" if stats.num_failed else ""
    lines = [f"{stats.num_answered:,} of {counted(stats.num_records, 'record')} answered{took}{failed}{blank}"]
    for code, count in stats.errors.most_common():
        line, message = stats.first_errors[code]
        lines.append(f"  {code}: {count:,} (first on line {line:,}: {message})")
    if stats.finish_reasons:
        lines.append("finish reasons: " + ", ".join(f"{reason} {count:,}" for reason, count in stats.finish_reasons.most_common()))
    if stats.num_cut_by_default and stats.num_cut_by_default >= _MANY_CUT * stats.finish_reasons.total():
        cut = counted(stats.num_cut_by_default, "output")
        lines.append(f"note: {cut} ended at the default of {max_tokens} tokens; --max-tokens N gives longer ones")
    if stats.pools:
        lines += _texts(stats)
    else:
        lines.append("tokens: " + ", ".join(_tokens(stats)))
    first = (
        f"{stats.first.replace('_', ' ')} {stats.first_token_at - stats.started_at:.1f} s after start, "
        if stats.first_token_at is not None
        else ""
    )
    lines.append(f"{first}peak memory {peak_memory() / 2**20:,.0f} MiB")
    return lines


def length_lines(stats: JobStats) -> list[str]:
    """Small histograms of this attempt's answers."""
    shown = [("prompt", stats.prompt_lengths), *([] if stats.pools else [("output", stats.output_lengths)])]
    return [
        f"{what} tokens of a record: median {told.percentile(50):,}, most {told.max:,}\n{bars(told.buckets()).rstrip()}"
        for what, told in shown
        if told.count
    ]


def set_up_logging(*, quiet: bool, verbose: int) -> None:
    """Log messages of `infer` go to stderr: warnings, with -v information, with -vv everything; with -q errors alone."""
    logger = logging.getLogger("infer")
    logger.setLevel(logging.ERROR if quiet else logging.WARNING - 10 * min(verbose, 2))
    logger.handlers = [_StderrHandler()]
    logger.propagate = False
    # Compiling takes seconds, once on a machine: whoever waits should know what for.
    logging.getLogger("infer.kernels.cpu.build").setLevel(logging.ERROR if quiet else min(logger.level, logging.INFO))
    logging.captureWarnings(messages.is_json())  # Python's own warnings would not be objects
    logging.getLogger("py.warnings").handlers = logger.handlers
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of files of records: what is wrong with one is in its row


class _StderrHandler(logging.Handler):
    """Looks stderr up at each message: the progress bar replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower()
        label = "" if record.levelno <= logging.INFO else f"{level}: "
        say(self.format(record), event="log", level=level, label=label, logger=record.name)


class _Speed:
    """Tokens per second over the last while, from counts noted now and then."""

    def __init__(self, *, min_seconds: float) -> None:
        self._min = min_seconds
        self._notes: deque[tuple[float, int, int]] = deque()

    def note(self, stats: JobStats) -> None:
        now = time.monotonic()
        output = stats.num_texts - stats.resumed_texts if stats.pools else stats.engine.num_output_tokens if stats.engine else 0
        counts = (stats.engine.num_prompt_tokens if stats.engine else 0, output)
        self._notes.append((now, *counts))
        while len(self._notes) > 2 and now - self._notes[1][0] >= self._min:
            self._notes.popleft()

    def per_second(self) -> tuple[float, float]:
        if len(self._notes) < 2:
            return 0.0, 0.0
        (before, *a), (now, *b) = self._notes[0], self._notes[-1]
        seconds = max(now - before, 1e-6)
        return (b[0] - a[0]) / seconds, (b[1] - a[1]) / seconds


def _texts(stats: JobStats) -> list[str]:
    """The input that was read, and a note that not all of it was."""
    texts, tokens = stats.texts_per_second, stats.prompt_per_second
    speeds = f" ({texts:,.0f} texts/s, {tokens:,.0f} tokens/s)" if texts is not None and tokens is not None else ""
    lines = [f"{counted(stats.num_texts, 'text')}, {counted(stats.prompt_tokens, 'token')}{speeds}"]
    if stats.num_truncated:
        lines.append(
            f"note: {counted(stats.num_truncated, 'text')} had too many tokens and {'was' if stats.num_truncated == 1 else 'were'} cut off"
        )
    return lines


def _tokens(stats: JobStats) -> list[str]:
    parts = []
    for count, speed, what in (
        (stats.prompt_tokens, stats.prompt_per_second, "prompt"),
        (stats.output_tokens, stats.output_per_second, "output"),
    ):
        parts.append(f"{count:,} {what}" + (f" ({speed:,.0f}/s)" if speed is not None else ""))
    return parts
