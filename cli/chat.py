"""`infer chat`: answer the conversations of a JSONL file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .job import prompt_options, read_text, run_job
from .options import Command, IoOptions, engine_options, io_options, sampling_options

if TYPE_CHECKING:
    from infer.core.jobs.build import Plan
    from infer.core.jobs.tasks.base import Task, TaskOptions


@click.command(cls=Command)
@io_options
@prompt_options
@click.option("--system", metavar="TEXT", help="System message for conversations that have none.")
@click.option("--chat-template", metavar="FILE", help="Use this jinja2 chat template, not the model's.")
@sampling_options
@engine_options
def chat(*, io: IoOptions, prompt_field: str | None, template: str | None, system: str | None, chat_template: str | None) -> int:
    """Answer the conversations of a JSONL file; one answer line a record, in input order.

    IN and OUT are files, or - for stdin and stdout (the default). A record is a JSON object with `messages`, an optional
    `id`, `tools`, `chat_template_kwargs`, and sampling parameters of its own; other fields come back in `extra`. OpenAI
    Batch lines (/v1/chat/completions) are answered in their own form. With --prompt-field or --template a record is one
    user message instead. What is wrong with a record is told in its place, and the exit status is then 3.

    \b
    infer chat --model smollm2-135m sample_data/chat.jsonl answers.jsonl
    infer chat --model smollm2-135m --system "Answer in one word." sample_data/chat.jsonl
    infer chat --model smollm2-135m --prompt-field question questions.jsonl answers.jsonl
    """
    from infer.core.jobs.tasks.chat import ChatTask

    override = None if chat_template is None else read_text(chat_template, "--chat-template")

    def make_task(options: TaskOptions, plan: Plan) -> Task:
        return ChatTask(options, plan.tokenizer, plan.chat_template(override), max_model_len=plan.config.max_model_len)

    return run_job(io, make_task, prompt_field=prompt_field, template=template, system=system, chat_template=override)
