"""`infer check`: what a run would make of its input, without the model's weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from .beam_options import beam_params
from .chat_options import chat_flags, chat_options
from .embed_options import EMBED, SCORE, matrix_options, pooling_options
from .findings import check_input
from .options import Command, JobOptions, engine_options, input_options, sampling_options
from .prompt_options import Prompts, prompt_options
from .spec import embed_spec, embed_task, score_spec, score_task, writing_spec

if TYPE_CHECKING:
    from infer.core.build.plan import Plan
    from infer.core.jobs.tasks.base import Task
    from infer.core.jobs.tasks.completion import CompletionOptions
    from infer.core.jobs.tasks.spec import TaskSpec
    from infer.core.pooling.recipe import Recipe


@click.command(cls=Command)
@input_options
@click.option(
    "--task",
    "kind",
    type=click.Choice(["auto", "generate", "chat", "beam", "embed", "score"]),
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
@matrix_options
@chat_options
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

    prompts = Prompts.of(prompt_field, template)
    if kind == "embed":
        spec = embed_spec(io, prompts)
    elif kind == "score":
        spec = score_spec(io, prompts)
    else:
        flags = chat_flags()
        makers = {"chat": flags.make_task, "beam": _search}
        spec = writing_spec(io, makers.get(kind, GenerateTask.of), prompts, system=flags.system)
        if kind == "auto":
            from infer.core.jobs.tasks.auto import AutoWriting

            of_others = {"messages": flags.make_task, "beam_width": _search}
            spec = replace(spec, task=AutoWriting(**vars(spec.task), by_field=of_others))
    pooling = partial(_pooling_task, io, prompts) if kind == "auto" else None
    return check_input(spec, pooling=pooling, as_json=as_json, tokens_per_second=tokens_per_second)


def _pooling_task(io: JobOptions, prompts: Prompts, recipe: Recipe) -> TaskSpec:
    """The task where nobody says what it is and the model pools."""
    from infer.core.jobs.tasks.auto import AutoPooling

    score = score_task(io, prompts)
    return score if recipe.kind == "classify" else AutoPooling(**vars(embed_task(io, prompts)), score=score)


def _search(options: CompletionOptions, plan: Plan) -> Task[Any]:
    from infer.core.jobs.tasks.beam import BeamTask

    return BeamTask.of(replace(options, beam=beam_params()), plan)
