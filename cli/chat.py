"""`infer chat`: answer the conversations of a JSONL file."""

from __future__ import annotations

from functools import partial

import click

from .ask import ask
from .job import run_command
from .options import Command, JobOptions, engine_options, io_options, sampling_options
from .options.chat import chat_flags, chat_options
from .options.prompt import Prompts, prompt_options
from .spec import writing_spec


@click.command(cls=Command)
@partial(io_options, asks=lambda question, **how: ask(question, chat_flags(), **how))
@prompt_options
@chat_options
@sampling_options
@engine_options
def chat(*, io: JobOptions, prompt_field: str | None, template: str | None) -> int:
    """Answer the conversations of a JSONL file; one output line per record, in input order.

    IN and OUT are files, or - for stdin and stdout (the default). A record is a JSON object with `messages`, an optional
    `id`, `tools`, `tool_choice`, `chat_template_kwargs`, and sampling parameters of its own; other fields come back in
    `extra`. OpenAI Batch lines (/v1/chat/completions) are answered in their own form. With --prompt-field or --template a
    record is one user message instead. A record that fails has its error in its place, and the exit status is then 3.

    A question in place of IN, which is several words, is answered as text.

    \b
    infer chat --model smollm2-135m "What is the capital of France?"
    infer chat --model smollm2-135m sample_data/chat.jsonl answers.jsonl
    infer chat --model smollm2-135m --system "Answer in one word." sample_data/chat.jsonl
    infer chat --model smollm2-135m --prompt-field question questions.jsonl answers.jsonl
    """
    flags = chat_flags()
    prompts = Prompts.of(prompt_field, template)
    parser = flags.options.reasoning_parser
    return run_command(writing_spec(io, flags.make_task, prompts, system=flags.system, chat=flags.to_json(), reasoning_parser=parser))
