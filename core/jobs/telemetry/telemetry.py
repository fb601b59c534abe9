"""All that a run tells other programs while it goes on, at the times that each wants."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

from ...errors import OutputError
from ..options import JobOptions
from ..stats import JobStats
from .files import MetricsFile, TraceFile
from .metrics import Run, Sample, samples, text
from .port import MetricsPort, parse_address
from .trace import Trace

#: Seconds between lines of a trace, and between what a port answers; a file of metrics is read every 15 s as a rule.
EVERY, EVERY_FILE = 1.0, 5.0


class Telemetry:
    """A context around a run; `update` belongs into its every step and is cheap.

    A file that can be written no more is given up with a word: the run is worth more than what is told of it.

    Args:
        taken: other files of the run.
        say: told where the port is, and of what goes wrong.

    Raises ConfigError, LockedError, OutputError when it is entered.
    """

    def __init__(self, options: JobOptions, stats: JobStats, *, command: str, taken: list[str], say: Callable[[str], None]) -> None:
        self._options, self._stats, self._taken, self._say = options, stats, taken, say
        self._run = Run(command, options.output, time.time())
        self._closing = ExitStack()
        self._next = self._next_file = time.monotonic()
        self._newest: list[Sample] = []
        self._trace = Trace(stats)
        self._trace_file: TraceFile | None = None
        self._metrics_file: MetricsFile | None = None
        self._is_on = bool(options.metrics or options.metrics_port or options.trace)

    def __enter__(self) -> Telemetry:
        options = self._options
        goes_on = options.resume or options.again.is_asked
        with ExitStack() as opened:
            if options.trace:
                taken = [*self._taken, *([options.metrics] if options.metrics else [])]
                self._trace_file = TraceFile(options.trace, taken=taken, overwrite=options.overwrite, goes_on=goes_on)
                opened.callback(self._trace_file.close)
            if options.metrics:
                self._metrics_file = MetricsFile(options.metrics, taken=self._taken)
                opened.callback(self._metrics_file.close)
            self.update()
            if options.metrics_port:
                port = MetricsPort(*parse_address(options.metrics_port), lambda: self._newest)
                opened.callback(port.close)
                self._say(f"metrics at {port.url}")
            self._closing = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        code = self._stats.exit_code if error is None else int(getattr(error, "exit_code", 1))
        self._run = replace(self._run, exit_code=code)
        with self._closing:
            self._write(file=True)

    def update(self) -> None:
        """Writes what is due."""
        if not self._is_on:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY
        due = now >= self._next_file
        if due:
            self._next_file = now + EVERY_FILE
        self._write(file=due)

    def _write(self, *, file: bool) -> None:
        if not self._is_on:
            return
        self._newest = samples(self._stats, self._run)
        try:
            if file and self._metrics_file is not None:
                self._metrics_file.write(text(self._newest))
        except OutputError as error:
            self._metrics_file = None
            self._say(f"warning: {error}; the run goes on without it")
        try:
            if self._trace_file is not None:
                self._trace_file.add(self._trace.line())
        except OutputError as error:
            self._trace_file = None
            self._say(f"warning: {error}; the run goes on without it")
