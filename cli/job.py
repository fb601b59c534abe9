"""What the commands that answer a JSONL file share: from options to exit code, in one function."""

from __future__ import annotations

import shlex
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infer.core.errors import ConfigError, InferError, UnfinishedOutput
from infer.core.jobs.output.opening import STDOUT
from infer.core.jobs.output.stats_file import StatsFile
from infer.core.jobs.session import Session
from infer.core.jobs.stats import JobStats
from infer.core.jobs.tasks.base import Task

from . import streams
from .options import IoOptions
from .report import Report
from .signals import Interrupted, Signals
from .table import counted
from .work import Work

if TYPE_CHECKING:
    from infer.core.build.plan import Plan
    from infer.core.engine.protocol import AnyEngine

#: Options of the job itself that can change a byte of its output.
_FINGERPRINTED = ("strict", "report_cache", "error_format", "max_line_bytes")


def run_job(work: Work) -> int:
    """Answers `work.io.inputs` into `work.io.output`; returns the exit code, 0 or 3.

    What is cheap to find wrong is found before the model is loaded. Raises InferError, Interrupted, BrokenPipeError.
    """
    io = work.io
    if io.dry_run:
        from .findings import check_input

        return check_input(work)
    with _stats_file(io) as stats_file:
        return _run(work, stats_file)


def _run(work: Work, stats_file: StatsFile | None) -> int:
    io = work.io
    stats = JobStats(pools=work.pools)
    report = Report(stats, quiet=io.quiet, interval=io.progress_interval)
    with Signals(on_second=report.close) as signals, report:
        try:
            session = Session(io, stats, stdout=streams.stdout() if io.output in STDOUT else None)
        except UnfinishedOutput as error:
            raise ConfigError(f"{error}\n  {command_with('--resume')}\n  {command_with('--overwrite')}") from None
        report.set_input_size(session.inputs.size)
        try:
            from infer.core.build.plan import find_model, make_plan

            # What is there already is looked at before anything else, even if nothing is left to answer.
            model = find_model(work.args)
            report.loading(work.args.model)
            plan = make_plan(work.args, model, given=work.origin)
            settings = plan.config.to_dict()
            for note in plan.config.notes:
                report.once(note)
            work.learn(plan, report.once)
            if (matrix := work.matrix(plan)) is not None:
                session.set_matrix(*matrix)
            work.now = session.now
            session.begin(_fingerprint(work, plan, session.now))
            task = work.make_task(plan, warn=report.once, fingerprint=session.fingerprint)

            def start() -> tuple[AnyEngine, Task]:
                from infer.core.fleet.start import start as start_engine

                engine = start_engine(plan)
                report.begin(bar=not session.output.is_terminal)
                return engine, task

            def between_steps() -> None:
                if signals.status_wanted():
                    report.status()
                report.update()

            if session.is_done:
                done, failed = stats.num_records, stats.num_failed
                report.say(f"{io.output} is finished already: {counted(done, 'record')}, {failed:,} failed; nothing to do")
            else:
                session.run(start, between_steps=between_steps, hold=signals.hold)
        except (InferError, Interrupted) as error:
            report.close()
            if session.resumable and (session.holds_answers or isinstance(error, Interrupted)) and not isinstance(error, ConfigError):
                report.stopped(error, command_with("--resume"))
            raise
        finally:
            session.close()
        if not session.is_done:
            report.summary(max_tokens=work.max_tokens)
    if stats_file is not None:
        stats_file.write(stats.to_json(command=work.command, settings=settings, defaults=work.defaults()))
    return stats.exit_code


def _fingerprint(work: Work, plan: Plan, now: datetime) -> dict[str, Any]:
    from infer.core.jobs.fingerprint import fingerprint

    io = work.io
    job = {
        "command": work.command,
        **{name: getattr(io, name) for name in _FINGERPRINTED},
        **work.job(),
    }
    if told := work.clock(plan, now):
        job["strftime_now"] = told
    return fingerprint(plan.config, plan.source, plan.tokenizer_source, job, verify=io.verify)


def command_with(flag: str) -> str:
    """This command once more, with --resume (which goes on with this run) or --overwrite."""
    words = [word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]
    place = words.index("--") if "--" in words else len(words)  # behind that nothing is an option
    return shlex.join([*_program(), *words[:place], flag, *words[place:]])


def _program() -> list[str]:
    """What this program is called by."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return [sys.executable, "-m", "infer.cli"]
    return [Path(called).name if shutil.which(Path(called).name) == called else called]


def _stats_file(io: IoOptions) -> AbstractContextManager[StatsFile | None]:
    if io.stats is None:
        return nullcontext()
    taken = [*io.inputs, *([io.errors] if io.errors else []), *([f"{io.output}.ids.jsonl"] if io.output_format != "jsonl" else [])]
    goes_on = io.resume or io.retry_errors or io.redo is not None
    return StatsFile(io.stats, output=io.output, taken=taken, overwrite=io.overwrite, goes_on=goes_on)
