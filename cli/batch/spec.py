"""The JobSpec of `infer batch`, whose options serve models that write and models that pool."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from infer.core.jobs.spec import JobSpec
from infer.core.jobs.tasks.batch.spec import BatchSpec, PoolingBatch, WritingBatch
from infer.core.jobs.tasks.generate import GenerateTask

from ..options.chat import chat_flags, given_chat
from ..options.embed import given_pooling
from ..options.prompt import Prompts
from ..options.sampling import given_sampling
from ..spec import batch_args, classify_task, embed_task, score_task, writing_options

if TYPE_CHECKING:
    from infer.core.jobs.tasks.adapters import Adapters
    from infer.core.settings.args import EngineArgs

    from ..options import JobOptions

#: Options that mean something to both kinds of model.
_BOTH = frozenset({"truncate", "truncate_prompt_tokens", "truncation_side"})


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
    return BatchSpec(
        writing,
        told,
        WritingBatch(writing, told, GenerateTask.of, given_sampling(), flags.to_json(), flags.make_task, classify),
        PoolingBatch(embed.options, told, embed, score, classify),
        only_writing=_typed([*(name for name in given_sampling() if name not in _BOTH), *given_chat(), *_of_writing(io)]),
        only_pooling=_typed(given_pooling()),
    )


def _of_writing(io: JobOptions) -> list[str]:
    """Options of the job itself that were given and mean something only where text is generated."""
    return ["redo"] * (io.again.finish_reason is not None) + ["report_cache"] * io.report_cache


def _typed(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"--{name.replace('_', '-')}" for name in names)
