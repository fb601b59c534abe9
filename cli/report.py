"""What a run says while it goes on and when it is over. stderr only; data never reaches a terminal unescaped."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

from infer.core.jobs.stats import JobStats, peak_memory

from . import streams

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds between refreshes of the bar, and over which its speeds are taken.
_REFRESH, _SPEED_OVER = 0.1, 10.0
#: Say so when at least this share of outputs ended at a max_tokens nobody chose.
_MANY_CUT = 0.1


class Report:
    """Everything a command tells about a run. Use as a context manager around it; `update` is the job's `on_progress`.

    Args:
        stats: the run's counts, read at each update.
        input_size: bytes of the input, if known: gives the share done and the time left.
        quiet: say nothing (errors are raised, not reported here).
        interval: seconds between progress lines where stderr is no terminal.
    """

    def __init__(self, stats: JobStats, *, input_size: int | None = None, quiet: bool = False, interval: float = 30.0) -> None:
        self._stats = stats
        self._size = input_size
        self._quiet = quiet
        self._bar: _Bar | None = None
        self._every = interval
        self._next = time.monotonic() + interval
        self._said: set[str] = set()
        self._speed = _Speed(min_seconds=interval)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.close()
            self._bar = None

    def say(self, text: str) -> None:
        """One message, unless -q."""
        if not self._quiet:
            say(text)

    def once(self, text: str) -> None:
        """A note or warning that is told once however often it comes up."""
        if text not in self._said:
            self._said.add(text)
            self.say(f"note: {text}")

    def loading(self, model: str) -> None:
        """Something to look at while there is no progress yet."""
        if streams.interactive():
            self.say(f"loading {model}")

    def begin(self, *, bar: bool = True) -> None:
        """The engine is ready: from now on there is progress to show. Without `bar`, as lines even on a terminal."""
        if bar and not self._quiet and streams.interactive():
            self._bar = _Bar()
            self._every = _REFRESH
            self._speed = _Speed(min_seconds=_SPEED_OVER)
        self._next = time.monotonic() + self._every
        self._speed.note(self._stats)

    def update(self) -> None:
        """Shows progress if it is time to. Cheap otherwise."""
        now = time.monotonic()
        if self._quiet or now < self._next:
            return
        self._next = now + self._every
        self._speed.note(self._stats)
        done = share_done(self._stats, self._size)
        text = progress_line(self._stats, done, *self._speed.per_second())
        if self._bar:
            self._bar.show(text, done)
        else:
            say(text)

    def summary(self, *, max_tokens: int | None) -> None:
        """The closing lines. `max_tokens` is the run's default."""
        self.__exit__(None, None, None)
        for line in summary_lines(self._stats, max_tokens=max_tokens):
            self.say(line)


def share_done(stats: JobStats, size: int | None) -> float | None:
    """Share of the input that is answered, by bytes; None if the input's size is not known."""
    return min(stats.bytes_done / size, 1.0) if size else None


def progress_line(stats: JobStats, done: float | None, prompt_speed: float, output_speed: float) -> str:
    """How far the run is, in one line; what matters most first, since a narrow terminal cuts the rest."""
    parts = [f"{stats.num_records:,} records" + (f" ({done:.0%})" if done is not None else "")]
    if done and stats.run_s:
        parts.append(f"ETA {_clock(stats.run_s * (1 - done) / done)}")
    parts.append(_count(stats.num_failed, "error"))
    parts.append(f"prompt {prompt_speed:,.0f}, output {output_speed:,.0f} tok/s")
    if stats.engine:
        parts.append(f"KV {stats.engine.kv_usage:.0%}")
    return " | ".join(parts)


def summary_lines(stats: JobStats, *, max_tokens: int | None) -> list[str]:
    """What happened, for a person."""
    took = f" in {stats.run_s:.1f} s" if stats.run_s is not None else ""
    blank = f", {_count(stats.num_blank, 'blank line')} skipped" if stats.num_blank else ""
    if not stats.num_records:
        return [f"no records{blank}"]
    failed = f", {stats.num_failed:,} failed" if stats.num_failed else ""
    lines = [f"{stats.num_answered:,} of {_count(stats.num_records, 'record')} answered{took}{failed}{blank}"]
    for code, count in stats.errors.most_common():
        line, message = stats.first_errors[code]
        lines.append(f"  {code}: {count:,} (first on line {line:,}: {message})")
    if stats.finish_reasons:
        lines.append("finish reasons: " + ", ".join(f"{reason} {count:,}" for reason, count in stats.finish_reasons.most_common()))
    if stats.num_cut_by_default and stats.num_cut_by_default >= _MANY_CUT * stats.finish_reasons.total():
        cut = _count(stats.num_cut_by_default, "output")
        lines.append(f"note: {cut} ended at the default of {max_tokens} tokens; --max-tokens N gives longer ones")
    lines.append("tokens: " + ", ".join(_tokens(stats)))
    first = f"first token {stats.first_token_at - stats.started_at:.1f} s after start, " if stats.first_token_at is not None else ""
    lines.append(f"{first}peak memory {peak_memory() / 2**20:,.0f} MiB")
    return lines


def say(text: str) -> None:
    """A message on stderr. A stderr nobody reads is no reason to stop."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(streams.printable(text), file=sys.stderr, flush=True)


def set_up_logging(*, quiet: bool, verbose: int) -> None:
    """Log messages of `infer` go to stderr: warnings, with -v information, with -vv everything; with -q errors alone."""
    logger = logging.getLogger("infer")
    logger.setLevel(logging.ERROR if quiet else logging.WARNING - 10 * min(verbose, 2))
    logger.handlers = [_StderrHandler()]
    logger.propagate = False


class _StderrHandler(logging.Handler):
    """Looks stderr up at each message: the progress bar replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        say(level + self.format(record))


class _Speed:
    """Tokens per second over the last while, from counts noted now and then."""

    def __init__(self, *, min_seconds: float) -> None:
        self._min = min_seconds
        self._notes: deque[tuple[float, int, int]] = deque()

    def note(self, stats: JobStats) -> None:
        now = time.monotonic()
        counts = (stats.engine.num_prompt_tokens, stats.engine.num_output_tokens) if stats.engine else (0, 0)
        self._notes.append((now, *counts))
        while len(self._notes) > 2 and now - self._notes[1][0] >= self._min:
            self._notes.popleft()

    def per_second(self) -> tuple[float, float]:
        if len(self._notes) < 2:
            return 0.0, 0.0
        (before, *a), (now, *b) = self._notes[0], self._notes[-1]
        seconds = max(now - before, 1e-6)
        return (b[0] - a[0]) / seconds, (b[1] - a[1]) / seconds


class _Bar:
    """One line at the bottom of a terminal, gone when closed. rich is imported here, so only for a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True, no_color=not streams.colored(), highlight=False, markup=False)
        columns = BarColumn(bar_width=20), TextColumn("{task.description}", markup=False)
        self._progress: Progress = Progress(*columns, console=console, transient=True, auto_refresh=False)
        self._task: TaskID = self._progress.add_task("starting", total=None)
        self._progress.start()

    def show(self, text: str, done: float | None) -> None:
        self._progress.update(self._task, description=text, total=None if done is None else 1.0, completed=done or 0.0, refresh=True)

    def close(self) -> None:
        self._progress.stop()


def _tokens(stats: JobStats) -> list[str]:
    parts = []
    for count, what in ((stats.prompt_tokens, "prompt"), (stats.output_tokens, "output")):
        speed = stats.per_second(count)
        parts.append(f"{count:,} {what}" + (f" ({speed:,.0f}/s)" if speed is not None else ""))
    return parts


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
