"""One job over JSONL, from the top:

open       inputs and output, and what earlier attempts left (attempt.py)
plan       settings, tokenizer and templates, but no weights (core/build)
resume     is it the same job, and what is left to answer (resume.py)
run        the engine, and every record through it (run.py)
publish    OUT appears (publish.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import ConfigError, InferError
from .attempt import Attempt
from .output.output import JobOutput
from .publish import publish
from .resume import resume
from .run import MaxErrors, Run
from .spec import FINGERPRINTED, JobSpec
from .stats import JobStats
from .tasks.spec import TaskSpec
from .watch import Watch

if TYPE_CHECKING:
    from ..build.plan import Plan
    from .tasks.protocol import AnyTask


@dataclass(frozen=True)
class Outcome:
    """The end of a job, beside its counts.

    Args:
        was_done: all that was asked for was in OUT already.
        settings: the engine's, as they were decided, and how the weights are quantized as they are stored.
        task: what became of records, with what the model's own files say.
        defaults: what was asked of every record, see `TaskSpec`.
    """

    was_done: bool
    settings: dict[str, Any]
    task: TaskSpec
    defaults: dict[str, Any]


def run_job(spec: JobSpec, stats: JobStats, watch: Watch, *, stdout: BinaryIO | None = None) -> Outcome:
    """Answers the records of `spec` and counts into `stats`. What is cheap to find wrong is found before the model is loaded.

    Args:
        stdout: the stream behind `-`.

    Raises InferError, BrokenPipeError, and whatever interrupts.
    """
    attempt = Attempt(spec.io, stats, stdout=stdout)
    try:
        watch.opened(attempt.inputs.size)
        plan, task_spec = _plan(spec, attempt, watch)
        stats.pools = task_spec.pools  # of some commands the model decides
        is_left = resume(attempt, _fingerprint(spec, task_spec, plan, attempt))
        task = task_spec.make_task(plan, warn=watch.note, fingerprint=attempt.fingerprint, now=attempt.now)
        if is_left:
            _run(plan, task, attempt, watch)
            publish(attempt, watch)
        elif isinstance(attempt.output, JobOutput):
            attempt.output.send()  # an earlier attempt may have made it and not put it in its place
    except (InferError, KeyboardInterrupt) as error:
        if attempt.resumable and (attempt.holds_answers or not isinstance(error, InferError)) and not isinstance(error, ConfigError):
            watch.stopped(error)
        raise
    finally:
        attempt.close()
    settings = plan.config.to_dict() | {"stored_as": plan.source.scheme or None}
    return Outcome(not is_left, settings, task_spec, task_spec.defaults(plan))


def _plan(spec: JobSpec, attempt: Attempt, watch: Watch) -> tuple[Plan, TaskSpec]:
    from ..build.plan import find_model, make_plan

    # What is there already is looked at before anything else, even if nothing is left to answer.
    model = find_model(spec.args)
    watch.loading(spec.args.model)
    plan = make_plan(spec.args, model, given=spec.origin)
    for note in plan.config.notes:
        watch.note(note)
    task_spec = spec.task.settled(plan, watch.note)
    attempt.stats.pools = task_spec.pools
    if (matrix := task_spec.matrix(plan)) is not None:
        attempt.describe(*matrix)
    return plan, task_spec


def _fingerprint(spec: JobSpec, task: TaskSpec, plan: Plan, attempt: Attempt) -> dict[str, Any]:
    from .fingerprint import fingerprint

    io = spec.io
    job = {"command": spec.command, **{name: getattr(io, name) for name in FINGERPRINTED}, **task.job(plan)}
    if told := task.clock(plan, attempt.now):
        job["strftime_now"] = told
    return fingerprint(plan.config, plan.source, plan.tokenizer_source, job, verify=io.verify)


def _run(plan: Plan, task: AnyTask, attempt: Attempt, watch: Watch) -> None:
    limit = attempt.options.max_errors
    run = Run(
        attempt.reader,
        attempt.output,
        stats=attempt.stats,
        previous=attempt.previous,
        max_errors=None if limit is None else MaxErrors(limit),
        keep_going=attempt.options.keep_going,
        watch=watch,
    )
    if run.needs_engine():
        run.look(task)
        from ..fleet.start import start

        engine = start(plan)
        watch.ready(bar=not attempt.output.is_terminal)
        run.answer(engine, task)
    run.end()
