"""`infer check`: what a run would make of its input, without the model's weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from infer.core.jobs.tasks.spec import WritingSpec

from .batch.spec import batch_spec, batch_task
from .findings import check_input
from .options import Command, JobOptions, engine_options, input_options, sampling_options
from .options.beam import beam_params
from .options.chat import ChatFlags, chat_flags, chat_options
from .options.classify import classify_options
from .options.embed import EMBED, SCORE, dtype_option, pooling_options
from .options.io import output_format_option
from .options.prompt import Prompts, language_option, prompt_options
from .spec import classify_spec, classify_task, embed_spec, embed_task, score_spec, score_task, writing_spec

if TYPE_CHECKING:
    from infer.core.build.plan import Plan
    from infer.core.jobs.spec import JobSpec
    from infer.core.jobs.tasks.auto import Auto
    from infer.core.jobs.tasks.base import Task
    from infer.core.jobs.tasks.completion import CompletionOptions


@click.command(cls=Command)
@input_options
@click.option(
    "--task",
    "kind",
    type=click.Choice(["auto", "generate", "chat", "batch", "beam", "embed", "score", "classify"]),
    default="auto",
    show_default=True,
    help="The command it is for; auto: what the model is for and the fields of the first JSON object say.",
)
@click.option(
    "--tokens-per-second",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    help="Speed to estimate the time with: of output, or of texts read.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@prompt_options
@language_option
@output_format_option(vectors=True)
@dtype_option
@chat_options
@classify_options
@partial(pooling_options, only=EMBED | SCORE)
@sampling_options
@partial(engine_options, without=frozenset({"task"}))  # here --task is what the records are for
def check(
    *,
    io: JobOptions,
    kind: str,
    tokens_per_second: float | None,
    as_json: bool,
    prompt_field: str | None,
    template: str | None,
) -> int:
    """Check a JSONL file without loading the model's weights: every line is parsed, templated and tokenized.

    Says on stdout how many records would fail and why, how long the prompts are, what the KV cache would have to hold and
    how much output is asked for. Records that need more memory than a run turns out to have are found only with
    --kv-cache-memory-bytes. IN is a file, or - for stdin (the default). The exit status is 3 if a record would fail, else 0.

    \b
    infer check --model smollm2-135m sample_data/generate.jsonl
    infer check --model smollm2-135m --task chat --max-tokens 500 --tokens-per-second 700 --json sample_data/chat.jsonl
    """
    from infer.core.jobs.tasks.generate import GenerateTask

    prompts, flags = Prompts.of(prompt_field, template), chat_flags()
    if kind == "embed":
        spec = embed_spec(io, prompts)
    elif kind == "score":
        spec = score_spec(io, prompts)
    elif kind == "classify":
        spec = classify_spec(io, prompts, flags)
    elif kind == "batch":
        spec = batch_spec(io)
    else:
        makers = {"chat": flags.make_task, "beam": _search}
        parser = flags.options.reasoning_parser
        spec = writing_spec(io, makers.get(kind, GenerateTask.of), prompts, system=flags.system, reasoning_parser=parser)
    auto = partial(_auto, io, prompts, spec, flags) if kind == "auto" else None
    return check_input(spec, auto=auto, as_json=as_json, tokens_per_second=tokens_per_second)


def _auto(io: JobOptions, prompts: Prompts, spec: JobSpec, flags: ChatFlags, plan: Plan) -> Auto:
    """The tasks that may be meant where nobody says what the records are for."""
    from infer.core.jobs.tasks.auto import Auto

    batch = (
        None if prompts.field or prompts.template else batch_task(io, spec.args, spec.task.options.adapters)
    )  # those are of records alone
    if plan.recipe is None:
        assert isinstance(spec.task, WritingSpec)
        classify = classify_task(io, prompts, flags)
        if classify.options.labels:
            return Auto(classify, batch=batch)
        chat, beam = (replace(spec.task, make=make) for make in (flags.make_task, _search))
        return Auto(spec.task, {"labels": classify, "messages": chat, "beam_width": beam}, batch)
    score = score_task(io, prompts)
    if plan.recipe.kind == "classify":
        single = plan.recipe.size == 1 or plan.recipe.per_token
        return Auto(score if single else classify_task(io, prompts, flags), batch=batch)
    return Auto(embed_task(io, prompts), dict.fromkeys(("documents", "text_1", "data_1"), score), batch)


def _search(options: CompletionOptions, plan: Plan) -> Task[Any]:
    from infer.core.jobs.tasks.beam import BeamTask

    return BeamTask.of(replace(options, beam=beam_params()), plan)
