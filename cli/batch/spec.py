"""The JobSpec of `infer batch`, whose options serve models that write and models that pool."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from infer.core.jobs.spec import JobSpec
from infer.core.jobs.tasks.batch.spec import BatchSpec, PoolingBatch, WritingBatch
from infer.core.jobs.tasks.generate import GenerateTask
from infer.core.jobs.tasks.transcribe.spec import TranscribeSpec
from infer.core.jobs.tasks.transcribe.task import TranscribeOptions

from ..command import Option
from ..options.chat import chat_flags
from ..options.prompt import Prompts
from ..options.sampling import given_sampling
from ..spec import batch_args, classify_task, embed_task, score_task, writing_options

if TYPE_CHECKING:
    from infer.core.jobs.tasks.adapters.declared import Adapters
    from infer.core.settings.args import EngineArgs

    from ..options import JobOptions

#: Stores of options that mean something to one kind of model alone, but for those that mean something to both.
_WRITING, _POOLING = frozenset({"infer.sampling", "infer.chat"}), frozenset({"infer.pooling"})
_BOTH = frozenset({"truncate"})


def batch_spec(io: JobOptions) -> JobSpec:
    """Raises click.UsageError, ConfigError."""
    args, origin, adapters = batch_args(io, chat_flags().options.reasoning_parser)
    return JobSpec(click.get_current_context().command.name or "", io, args, origin, batch_task(io, args, adapters))


def batch_task(io: JobOptions, args: EngineArgs, adapters: Adapters) -> BatchSpec:
    """The TaskSpec of the command. Raises click.UsageError, ConfigError."""
    prompts, flags = Prompts.of(), chat_flags()
    told = prompts.job()
    writing = replace(writing_options(io, prompts, args, adapters, system=flags.system), batch_only=True)
    embed, score, classify = embed_task(io, prompts), score_task(io, prompts), classify_task(io, prompts, flags)
    classify = replace(classify, options=replace(classify.options, batch_only=True, adapters=adapters))
    embed = replace(embed, options=replace(embed.options, batch_only=True, adapters=adapters))
    score = replace(score, options=replace(score.options, batch_only=True, adapters=adapters))
    heard = TranscribeSpec(TranscribeOptions(strict=io.strict, error_format=io.error_format, batch_only=True), {})
    return BatchSpec(
        writing,
        told,
        WritingBatch(writing, told, GenerateTask.of, given_sampling(), flags.to_json(), flags.make_task, classify, heard),
        PoolingBatch(embed.options, told, embed, score, classify),
        only_writing=(*_typed(_WRITING), *_of_writing(io)),
        only_pooling=_typed(_POOLING),
    )


def _of_writing(io: JobOptions) -> tuple[str, ...]:
    """Options of the job itself that were given and mean something only where text is generated."""
    return ("--redo",) * (io.again.finish_reason is not None) + ("--report-cache",) * io.report_cache


def _typed(stores: Collection[str]) -> tuple[str, ...]:
    """Those options that were written on the command line; what the environment or a file says may be meant for other jobs too."""
    ctx = click.get_current_context()
    return tuple(
        max(one.opts, key=len)
        for one in ctx.command.params
        if isinstance(one, Option) and one.store in stores and one.name not in _BOTH
        if ctx.get_parameter_source(str(one.name)) == ParameterSource.COMMANDLINE
    )
