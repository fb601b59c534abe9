"""What the commands that answer a JSONL file share: from options to exit code, in one function."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from infer.core.errors import ConfigError, InferError, UnfinishedOutput
from infer.core.jobs.opening import STDOUT
from infer.core.jobs.run import JobEngine
from infer.core.jobs.session import Session
from infer.core.jobs.stats import JobStats, write_json
from infer.core.jobs.tasks.base import Task, TaskOptions

from . import streams
from .command import Option
from .options import IoOptions, engine_args, given_sampling, sampling_params, with_model_defaults
from .report import Report, set_up_logging
from .signals import Interrupted, Signals

if TYPE_CHECKING:
    from infer.core.args import EngineArgs
    from infer.core.beam_params import BeamSearchParams
    from infer.core.jobs.build import Plan
    from infer.core.text.template import RecordTemplate

F = TypeVar("F", bound=Callable[..., Any])

_PROMPT = "infer.prompt"


def prompt_options(command: F) -> F:
    """Adds --prompt-field and --template, which the command gets, and --literal-special-tokens, which `task_options` reads."""
    field = click.option("--prompt-field", metavar="NAME", help="Take the prompt from this field of the record.")
    template = click.option("--template", metavar="FILE", help="Make the prompt with this jinja2 template over the record's fields.")
    literal = click.option(
        "--literal-special-tokens",
        cls=Option,
        group="Options",
        store=_PROMPT,
        is_flag=True,
        default=None,
        help="Text of a record that spells a special token (<|im_end|>) is only text; a template's own are meant.",
    )
    return field(template(literal(command)))


def run_job(
    io: IoOptions,
    make_task: Callable[[TaskOptions, Plan], Task],
    *,
    prompt_field: str | None = None,
    template: str | None = None,
    system: str | None = None,
    chat: Mapping[str, Any] | None = None,
    beam: BeamSearchParams | None = None,
) -> int:
    """Answers `io.inputs` into `io.output`; returns the exit code, 0 or 3.

    `beam` is what the command searches with, if it does; `chat` what else of its options can change an answer, for the fingerprint.
    What is cheap to find wrong is found before the model is loaded. Raises InferError, Interrupted, BrokenPipeError.
    """
    set_up_logging(quiet=io.quiet, verbose=io.verbose)
    args, origin = engine_args()
    template_text = None if template is None else read_text(template, "--template")
    options = task_options(io, args, prompt_field=prompt_field, template_text=template_text, system=system, beam=beam)
    if io.dry_run:
        from .findings import check_input

        return check_input(io, args, origin, options, lambda options, plan, _: make_task(options, plan))
    _check_stats_file(io)
    command = click.get_current_context().command.name or ""
    stats = JobStats()
    settings: dict[str, Any] = {}
    report = Report(stats, quiet=io.quiet, interval=io.progress_interval)
    with Signals(on_second=report.close) as signals, report:
        try:
            session = Session(io, stats, stdout=streams.stdout() if io.output in STDOUT else None)
        except UnfinishedOutput as error:
            raise ConfigError(f"{error}\n  {command_with('--resume')}\n  {command_with('--overwrite')}") from None
        report.set_input_size(session.inputs.size)
        try:
            if session.is_done:
                return _already_done(session, report)
            from infer.core.jobs.build import find_model, make_plan
            from infer.core.jobs.fingerprint import fingerprint

            model = find_model(args)

            def plan_job() -> tuple[Plan, Task]:
                report.loading(args.model)
                plan = make_plan(args, model, given=origin)
                settings.update(plan.config.to_dict())
                for note in plan.config.notes:
                    report.once(note)
                nonlocal options
                if beam is None:
                    options = with_model_defaults(options, plan, report.once)
                job = {
                    "command": command,
                    **{name: getattr(io, name) for name in ("strict", "report_cache", "max_line_bytes", "retry_errors", "redo")},
                    "errors file": io.errors is not None,
                    "compression": io.compression,
                    "prompt_field": prompt_field,
                    "template": template_text,
                    "literal_special_tokens": options.literal_special_tokens,
                    **(chat or {}),
                    **asdict(beam or options.defaults),
                }
                found = fingerprint(plan.config, plan.source, plan.tokenizer_source, job, verify=io.verify)
                session.begin(found)
                return plan, make_task(replace(options, warn=report.once).with_fingerprint(session.fingerprint), plan)

            # A job that goes on is checked before anything else, even if nothing is left to answer.
            planned = plan_job() if session.has_work_before else None

            def start() -> tuple[JobEngine, Task]:
                plan, task = planned or plan_job()
                engine = plan.start()
                report.begin(bar=not session.output.is_terminal)
                return engine, task

            def between_steps() -> None:
                if signals.status_wanted():
                    report.status()
                report.update()

            session.run(start, between_steps=between_steps, hold=signals.hold)
        except (InferError, Interrupted) as error:
            report.close()
            if session.resumable and (session.holds_answers or isinstance(error, Interrupted)) and not isinstance(error, ConfigError):
                report.stopped(error, command_with("--resume"))
            raise
        finally:
            session.close()
        report.summary(max_tokens=options.defaults.max_tokens)
    if io.stats is not None:
        write_json(io.stats, stats.to_json(command=command, settings=settings, sampling=asdict(beam or options.defaults)))
    return stats.exit_code


def task_options(
    io: IoOptions,
    args: EngineArgs,
    *,
    prompt_field: str | None,
    template_text: str | None,
    system: str | None,
    beam: BeamSearchParams | None = None,
) -> TaskOptions:
    """How the running command reads and writes records. Raises click.UsageError, ConfigError."""
    if prompt_field is not None and template_text is not None:
        raise click.UsageError("--prompt-field and --template both say where the prompt is; give one.", click.get_current_context())
    return TaskOptions(
        defaults=sampling_params() if beam is None else beam.sampling(),
        beam=beam,
        max_tokens_given="max_tokens" in given_sampling(),
        by_priority=args.scheduling_policy == "priority",
        prompt_field=prompt_field,
        template=_record_template(template_text),
        system=system,
        literal_special_tokens=bool(click.get_current_context().meta.get(_PROMPT, {}).get("literal_special_tokens")),
        strict=io.strict,
        report_cache=io.report_cache,
        model=args.model,
    )


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


def read_text(path: str, flag: str) -> str:
    """The text of a file named by `flag`. Raises ConfigError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag} {path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _already_done(session: Session, report: Report) -> int:
    rows, failed = session.count_finished()
    report.say(f"{session.options.output} is finished already: {rows:,} records, {failed:,} failed; nothing to do")
    return 3 if failed else 0


def _record_template(text: str | None) -> RecordTemplate | None:
    from infer.core.text.template import RecordTemplate

    return None if text is None else RecordTemplate.load(text)


def _check_stats_file(io: IoOptions) -> None:
    if io.stats is None:
        return
    stats = Path(io.stats)
    if not stats.parent.is_dir():
        raise ConfigError(f"--stats {io.stats!r}: there is no folder {str(stats.parent)!r}")
    taken = [*io.inputs, io.output, *([io.errors] if io.errors else [])]
    if any(name != "-" and stats.resolve() == Path(name).resolve() for name in taken):
        raise ConfigError(f"--stats {io.stats!r} is the input or the output; choose another file")
