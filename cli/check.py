"""`infer check`: what a run would make of its input, without the model's weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from .beam_options import beam_params
from .chat_options import chat_flags, chat_options
from .findings import check_input
from .job import prompt_options, read_text, task_options
from .options import Command, IoOptions, engine_args, engine_options, input_options, sampling_options
from .report import set_up_logging

if TYPE_CHECKING:
    from infer.core.jobs.build import Plan
    from infer.core.jobs.record import Record
    from infer.core.jobs.tasks.base import Task, TaskOptions


@click.command(cls=Command)
@input_options
@click.option(
    "--task",
    "kind",
    type=click.Choice(["auto", "generate", "chat", "beam"]),
    default="auto",
    show_default=True,
    help="The command it is for; auto: chat if the first JSON object has messages, beam if beam_width.",
)
@click.option(
    "--tokens-per-second", metavar="N", type=click.FloatRange(min=0, min_open=True), help="Output speed to estimate the time with."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@prompt_options
@chat_options
@sampling_options
@partial(engine_options, without=frozenset({"task"}))  # here --task is what the records are for
def check(
    *,
    io: IoOptions,
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
    set_up_logging(quiet=io.quiet, verbose=io.verbose)
    args, origin = engine_args()
    chat = chat_flags()
    template_text = None if template is None else read_text(template, "--template")
    options = task_options(io, args, prompt_field=prompt_field, template_text=template_text, system=chat.system)

    def task_for(options: TaskOptions, plan: Plan, record: Record) -> Task:
        from infer.core.jobs.tasks.generate import GenerateTask

        if kind == "chat" or (kind == "auto" and _has(record, "messages")):
            return chat.make_task(options, plan)
        if kind == "beam" or (kind == "auto" and _has(record, "beam_width")):
            from infer.core.jobs.tasks.beam import BeamTask

            return BeamTask(replace(options, beam=beam_params()), plan.tokenizer, max_model_len=plan.config.max_model_len)
        return GenerateTask(options, plan.tokenizer, max_model_len=plan.config.max_model_len)

    return check_input(io, args, origin, options, task_for, as_json=as_json, tokens_per_second=tokens_per_second)


def _has(record: Record, name: str) -> bool:
    """Whether a record, or the OpenAI Batch line it is, has a field."""
    body = record.fields.get("body")
    return name in (body if isinstance(body, dict) else record.fields)
