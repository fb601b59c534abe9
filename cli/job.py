"""What the commands that answer a JSONL file share: from options to exit code, in one function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from infer.core.errors import ConfigError
from infer.core.jobs.reader import InputFile, RecordReader, same_file
from infer.core.jobs.run import Job, JobEngine
from infer.core.jobs.stats import JobStats, write_json
from infer.core.jobs.tasks.base import Task, TaskOptions
from infer.core.jobs.writer import OrderedWriter, OutputFile

from . import streams
from .options import IoOptions, engine_args, given_sampling, sampling_params
from .report import Report, set_up_logging

if TYPE_CHECKING:
    from infer.core.jobs.build import Plan
    from infer.core.text.template import RecordTemplate

F = TypeVar("F", bound=Callable[..., Any])


def prompt_options(command: F) -> F:
    """Adds --prompt-field and --template."""
    field = click.option("--prompt-field", metavar="NAME", help="Take the prompt from this field of the record.")
    template = click.option("--template", metavar="FILE", help="Make the prompt with this jinja2 template over the record's fields.")
    return field(template(command))


def run_job(
    io: IoOptions,
    make_task: Callable[[TaskOptions, Plan], Task],
    *,
    prompt_field: str | None = None,
    template: str | None = None,
    system: str | None = None,
) -> int:
    """Answers `io.input` into `io.output`; returns the exit code, 0 or 3.

    What is cheap to find wrong is found before the model is loaded. Raises InferError, BrokenPipeError.
    """
    set_up_logging(quiet=io.quiet, verbose=io.verbose)
    args, origin = engine_args()
    defaults = sampling_params()
    if prompt_field is not None and template is not None:
        raise click.UsageError("--prompt-field and --template both say where the prompt is; give one.")
    record_template = None if template is None else _record_template(template)
    source = InputFile(io.input)
    stats = JobStats()
    with Report(stats, input_size=source.size, quiet=io.quiet, interval=io.progress_interval) as report:
        sink = _open_output(io, source)
        try:
            from infer.core.jobs.build import find_model, make_plan

            model = find_model(args)
            settings: dict[str, Any] = {}
            options = TaskOptions(
                defaults=defaults,
                max_tokens_given="max_tokens" in given_sampling(),
                prompt_field=prompt_field,
                template=record_template,
                system=system,
                strict=io.strict,
                report_cache=io.report_cache,
                warn=report.once,
            )

            def start() -> tuple[JobEngine, Task]:
                report.loading(args.model)
                plan = make_plan(args, model, given=origin)
                settings.update(plan.config.to_dict())
                for note in plan.config.notes:
                    report.once(note)
                task = make_task(options, plan)
                engine = plan.start()
                report.begin(bar=not sink.is_terminal)
                return engine, task

            reader = RecordReader(source, io.max_line_bytes)
            Job(reader, OrderedWriter(sink), start, stats=stats, on_progress=report.update).run()
        finally:
            sink.close()
            source.close()
        report.summary(max_tokens=defaults.max_tokens)
    if io.stats is not None:
        command = click.get_current_context().command.name or ""
        write_json(io.stats, stats.to_json(command=command, settings=settings, sampling=asdict(defaults)))
    return stats.exit_code


def read_text(path: str, flag: str) -> str:
    """The text of a file named by `flag`. Raises ConfigError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag} {path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _record_template(path: str) -> RecordTemplate:
    from infer.core.text.template import RecordTemplate

    return RecordTemplate.load(read_text(path, "--template"))


def _open_output(io: IoOptions, source: InputFile) -> OutputFile:
    if io.stats is not None:
        stats = Path(io.stats)
        if not stats.parent.is_dir():
            raise ConfigError(f"--stats {io.stats!r}: there is no folder {str(stats.parent)!r}")
        if same_file(source.status, stats) or stats.resolve() == Path(io.output).resolve():
            raise ConfigError(f"--stats {io.stats!r} is the input or the output; choose another file")
    stdout = streams.stdout() if io.output == "-" else None
    return OutputFile(io.output, overwrite=io.overwrite, input_status=source.status, stdout=stdout)
