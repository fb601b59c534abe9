"""JobSpecs made from the options of the running command, with all that can be wrong with them found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from infer.core.errors import ConfigError
from infer.core.jobs.output.output_format import is_matrix
from infer.core.jobs.spec import JobSpec
from infer.core.jobs.tasks.adapters.declared import Adapters, declared_in
from infer.core.jobs.tasks.completion import CompletionOptions
from infer.core.jobs.tasks.spec import WritingSpec
from infer.core.settings.memory import refuse_little_address_space
from infer.core.types.params import scoring_params

from .command import usage
from .options import JobOptions, engine_args, given_sampling, sampling_params
from .options.classify import given_labels
from .options.embed import given_pooling
from .options.prompt import Prompts, target_language
from .options.sampling import TRUNCATE, given_truncate
from .report import set_up_logging

if TYPE_CHECKING:
    from infer.core.build.plan import Plan
    from infer.core.jobs.tasks.base import Task
    from infer.core.jobs.tasks.classify.spec import ClassifySpec
    from infer.core.jobs.tasks.pooling_spec import EmbedSpec, PoolingSpec, ScoreSpec
    from infer.core.settings.args import EngineArgs
    from infer.core.types.beam_params import BeamSearchParams

    from .options.chat import ChatFlags

#: Options of the vectors -> keys of `pooler_config`.
_POOLER = {"pooling": "pooling_type", "normalize": "normalize", "dimensions": "dimensions"}
#: What else the setting `task` may be beside the name of the command.
_ALSO = {"embed": ("embedding",), "score": ("classify", "embed", "embedding")}


def writing_spec(
    io: JobOptions,
    make: Callable[[CompletionOptions, Plan], Task[Any]],
    prompts: Prompts,
    *,
    system: str | None = None,
    chat: Mapping[str, Any] | None = None,
    reasoning_parser: str | None = None,
    beam: BeamSearchParams | None = None,
) -> JobSpec:
    """The JobSpec of a command that has the model write. Raises click.UsageError, ConfigError.

    Args:
        make: the task.
        system: what conversations begin with.
        chat: what else of the command's options can change an answer.
        reasoning_parser: what reads the model's reasoning: a budget of thinking is of that, unless `reasoning_config` says otherwise.
        beam: what it searches with, if it does.
    """
    args, origin, adapters = writing_args(io, reasoning_parser)
    options = writing_options(io, prompts, args, adapters, system=system, beam=beam)
    return JobSpec(_command(), io, args, origin, WritingSpec(options, prompts.job(), make, given_sampling(), chat or {}))


def writing_args(io: JobOptions, reasoning_parser: str | None = None) -> tuple[EngineArgs, Mapping[str, str], Adapters]:
    """The engine's settings, where each came from, and the adapters that they declare. Raises click.UsageError, ConfigError."""
    _set_up(io)
    args, origin = engine_args()
    args, adapters = declared_in(args, origin)
    if reasoning_parser is not None and not args.reasoning_config:
        args = replace(args, reasoning_config={"reasoning_parser": reasoning_parser})
    return args, origin, adapters


def writing_options(
    io: JobOptions,
    prompts: Prompts,
    args: EngineArgs,
    adapters: Adapters,
    *,
    system: str | None = None,
    beam: BeamSearchParams | None = None,
) -> CompletionOptions:
    """The options of its task; arguments as of `writing_spec`. Raises click.UsageError, ConfigError."""
    given = given_sampling()
    return CompletionOptions(
        defaults=sampling_params() if beam is None else beam.sampling(),
        beam=beam,
        max_tokens_given="max_tokens" in given,
        by_priority=args.scheduling_policy == "priority",
        system=system,
        strict=io.strict,
        error_format=io.error_format,
        report_cache=io.report_cache,
        adapters=adapters,
        target_language=target_language(),
        **prompts.options(),
    )


def batch_args(io: JobOptions, reasoning_parser: str | None = None) -> tuple[EngineArgs, Mapping[str, str], Adapters]:
    """`writing_args` for `infer batch`, whose model may pool too. Raises click.UsageError, ConfigError."""
    args, origin, adapters = writing_args(io, reasoning_parser)
    over = _pooler(given_pooling())
    return replace(args, pooler_config={**(args.pooler_config or {}), **over} or None), origin, adapters


def embed_spec(io: JobOptions, prompts: Prompts) -> JobSpec:
    """The JobSpec of `infer embed`. Raises click.UsageError, ConfigError."""
    return _pooling_spec(io, "embed", embed_task(io, prompts))


def score_spec(io: JobOptions, prompts: Prompts) -> JobSpec:
    """The JobSpec of `infer score`. Raises click.UsageError, ConfigError."""
    return _pooling_spec(io, "score", score_task(io, prompts))


def transcribe_spec(io: JobOptions) -> JobSpec:
    """The JobSpec of `infer transcribe`. Raises click.UsageError, ConfigError."""
    from infer.core.jobs.tasks.transcribe.spec import TranscribeSpec
    from infer.core.jobs.tasks.transcribe.task import TranscribeOptions

    from .options.transcribe import speech_params

    _set_up(io)
    args, origin = engine_args()
    _refuse_of_writers(io)
    speech, form = speech_params()
    options = TranscribeOptions(strict=io.strict, error_format=io.error_format, speech=speech, response_format=form)
    return JobSpec(_command(), io, args, origin, TranscribeSpec(options, {}))


def embed_task(io: JobOptions, prompts: Prompts) -> EmbedSpec:
    """The TaskSpec of the command. Raises click.UsageError."""
    from infer.core.jobs.tasks.embed import EmbedOptions
    from infer.core.jobs.tasks.pooling_spec import EmbedSpec

    given = given_pooling()
    options = EmbedOptions(
        **_read_options(io, prompts),
        prompt_name=given.get("prompt_name"),
        prefix=given.get("prefix"),
        encoding=str(given.get("encoding") or "float"),
        embedding_dtype=io.embedding_dtype,
        matrix=is_matrix(io.output_format, vectors=True),
    )
    return EmbedSpec(options, prompts.job(), io.output_format)


def score_task(io: JobOptions, prompts: Prompts) -> ScoreSpec:
    """The TaskSpec of the command. Raises click.UsageError."""
    from infer.core.jobs.tasks.pooling_spec import ScoreSpec
    from infer.core.jobs.tasks.score import ScoreOptions

    given = given_pooling()
    query, document = given.get("query_prefix"), given.get("document_prefix")
    return ScoreSpec(ScoreOptions(**_read_options(io, prompts), query_prefix=query, document_prefix=document), prompts.job())


def classify_spec(io: JobOptions, prompts: Prompts, flags: ChatFlags) -> JobSpec:
    """The JobSpec of `infer classify`; which kind of model it is, its files say. Raises click.UsageError, ConfigError."""
    _set_up(io)
    args, origin = engine_args()
    args, adapters = declared_in(args, origin)
    task = classify_task(io, prompts, flags, by_priority=args.scheduling_policy == "priority")
    task = replace(task, options=replace(task.options, adapters=adapters))
    _refuse_of_writers(io)
    given = given_labels()
    if given.get("activation") is not None:
        args = replace(args, pooler_config={**(args.pooler_config or {}), "activation": given["activation"]})
    return JobSpec(_command(), io, args, origin, task)


def classify_task(io: JobOptions, prompts: Prompts, flags: ChatFlags, *, by_priority: bool = False) -> ClassifySpec:
    """The TaskSpec of the command. Raises click.UsageError."""
    from infer.core.jobs.tasks.classify.labels import LabelOptions
    from infer.core.jobs.tasks.classify.spec import ClassifySpec

    given, cut = given_labels(), given_truncate()
    options = LabelOptions(
        defaults=scoring_params(**TRUNCATE[cut] if cut is not None else {}),
        by_priority=by_priority,
        system=flags.system,
        strict=io.strict,
        error_format=io.error_format,
        labels=given["labels"],
        calibration_prompt=given.get("calibration_prompt"),
        as_chat=bool(given.get("chat")),
        **prompts.options(),
    )
    return ClassifySpec(options, prompts.job(), cut, given.get("threshold"), flags.chat_template, flags.options, flags.to_json())


def _refuse_of_writers(io: JobOptions) -> None:
    """Raises click.UsageError for options about what is generated."""
    for flag, value in (("--redo finish_reason", io.again.finish_reason), ("--report-cache", io.report_cache)):
        if value:
            raise usage(f"{flag} applies only to a model that generates text; leave it out.")


def _pooling_spec(io: JobOptions, task: str, of_records: PoolingSpec) -> JobSpec:
    _set_up(io)
    args, origin = engine_args()
    args, adapters = declared_in(args, origin)
    of_records = replace(of_records, options=replace(of_records.options, adapters=adapters))
    if args.task not in ("auto", task, *_ALSO[task]):
        raise ConfigError(f"task={args.task} contradicts infer {_command()}; leave --task out")
    _refuse_of_writers(io)
    over = _pooler(given_pooling())
    args = replace(args, task=task, pooler_config={**(args.pooler_config or {}), **over} or None)
    return JobSpec(_command(), io, args, origin, of_records)


def _pooler(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of `pooler_config`."""
    return {key: given[name] for name, key in _POOLER.items() if name in given}


def _read_options(io: JobOptions, prompts: Prompts) -> dict[str, Any]:
    """Fields of PoolingOptions."""
    return {**prompts.options(), "strict": io.strict, "error_format": io.error_format, "truncate": given_truncate()}


def _set_up(io: JobOptions) -> None:
    set_up_logging(quiet=io.quiet, verbose=io.verbose)
    refuse_little_address_space()


def _command() -> str:
    return click.get_current_context().command.name or ""
