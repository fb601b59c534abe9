"""The run of a command that answers a JSONL file: one function, from its options to the exit code."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from infer.core.errors import ConfigError, UnfinishedOutput
from infer.core.jobs.job import run_job
from infer.core.jobs.output.matrix_output import IDS_SUFFIX
from infer.core.jobs.output.opening import STDOUT
from infer.core.jobs.output.output_format import is_matrix, is_table
from infer.core.jobs.output.stats_file import StatsFile
from infer.core.jobs.output.table_output import ROWS_SUFFIX
from infer.core.jobs.spec import JobSpec
from infer.core.jobs.stats import JobStats
from infer.core.jobs.telemetry.telemetry import Telemetry
from infer.core.jobs.watch import Watch
from infer.core.remote.url import redacted, shown_name

from .options import JobOptions
from .report import Report
from .signals import Signals
from .terminal import streams
from .terminal.table import counted


def run_command(spec: JobSpec) -> int:
    """Answers the inputs into the output; returns the exit code, 0 or 3. Raises InferError, Interrupted, BrokenPipeError."""
    if spec.io.dry_run:
        from .findings import check_input

        return check_input(spec)
    with _stats_file(spec.io) as stats_file:
        return _run(spec, stats_file)


def _run(spec: JobSpec, stats_file: StatsFile | None) -> int:
    io = spec.io
    stats = JobStats(pools=spec.task.pools)
    report = Report(stats, quiet=io.quiet, interval=io.progress_interval, verbose=io.verbose)
    with Signals(on_second=report.close) as signals, report:
        stdout = streams.stdout() if io.output in STDOUT else None
        telemetry = Telemetry(io, stats, command=spec.command, taken=_files(io), say=report.say)
        try:
            with telemetry:
                outcome = run_job(spec, stats, _Screen(report, signals, telemetry), stdout=stdout)
        except UnfinishedOutput as error:
            raise ConfigError(f"{error}\n  {command_with('--resume')}\n  {command_with('--overwrite')}") from None
        if outcome.was_done:
            done, failed = stats.num_records, stats.num_failed
            report.say(f"{shown_name(io.output)} is finished already: {counted(done, 'record')}, {failed:,} failed; nothing to do")
        else:
            report.summary(max_tokens=outcome.task.max_tokens)
    if stats_file is not None:
        stats_file.write(stats.to_json(command=spec.command, settings=outcome.settings, defaults=outcome.defaults))
    return stats.exit_code


class _Screen(Watch):
    """Shows a job on stderr and to other programs, and keeps signals away from it where they may not come."""

    def __init__(self, report: Report, signals: Signals, telemetry: Telemetry) -> None:
        self._report, self._signals, self._telemetry = report, signals, telemetry

    def opened(self, num_bytes: int | None) -> None:
        self._report.set_input_size(num_bytes)

    def loading(self, model: str) -> None:
        self._report.loading(model)

    def ready(self, *, bar: bool) -> None:
        self._report.begin(bar=bar)

    def note(self, text: str) -> None:
        self._report.once(text)

    def hold(self) -> AbstractContextManager[None]:
        return self._signals.hold()

    def stepped(self) -> None:
        if self._signals.status_wanted():
            self._report.status()
        self._report.update()
        self._telemetry.update()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._report.pause()
        with self._signals.status_at_once(self._report.status):
            yield

    def stopped(self, error: BaseException) -> None:
        self._report.close()
        self._report.stopped(error, command_with("--resume"))


def command_with(flag: str) -> str:
    """This command once more, with --resume (which goes on with this run) or --overwrite."""
    words = [word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]
    place = words.index("--") if "--" in words else len(words)  # behind that nothing is an option
    return redacted(shlex.join([*_program(), *words[:place], flag, *words[place:]]))


def _program() -> list[str]:
    """The command that started this program."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return [sys.executable, "-m", "infer.cli"]
    return [Path(called).name if shutil.which(Path(called).name) == called else called]


def _beside(io: JobOptions) -> list[str]:
    """The file of lines that lies beside a matrix or a table."""
    if is_matrix(io.output_format, vectors=io.vectors):
        return [io.output + IDS_SUFFIX]
    return [io.output + ROWS_SUFFIX] if is_table(io.output_format, vectors=io.vectors) else []


def _files(io: JobOptions) -> list[str]:
    """The files of the run that have their names elsewhere."""
    return [*io.inputs, io.output, *(name for name in (io.errors, io.stats) if name), *_beside(io)]


def _stats_file(io: JobOptions) -> AbstractContextManager[StatsFile | None]:
    if io.stats is None:
        return nullcontext()
    taken = [*io.inputs, *([io.errors] if io.errors else []), *_beside(io)]
    goes_on = io.resume or io.retry_errors or io.redo is not None
    return StatsFile(io.stats, output=io.output, taken=taken, overwrite=io.overwrite, goes_on=goes_on)
