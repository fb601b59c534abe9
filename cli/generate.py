"""`infer generate`: complete the prompts of a JSONL file."""

from __future__ import annotations

import click

from .job import run_command
from .options import Command, JobOptions, engine_options, io_options, sampling_options
from .options.prompt import Prompts, language_option, prompt_options
from .spec import writing_spec


@click.command(cls=Command)
@io_options
@prompt_options
@language_option
@sampling_options
@engine_options
def generate(*, io: JobOptions, prompt_field: str | None, template: str | None) -> int:
    """Complete the prompts of a JSONL file; one output line per record, in input order.

    IN and OUT are files, or - for stdin and stdout (the default). A record is a JSON object with `prompt` (text) or `prompt_token_ids`,
    an optional `id`, and sampling parameters of its own; other fields come back in `extra`. OpenAI Batch lines (/v1/completions) are
    answered in their own form. A record that fails has its error in its place, and the exit status is then 3.

    \b
    infer generate --model smollm2-135m sample_data/generate.jsonl answers.jsonl
    echo '{"prompt": "The capital of France is"}' | infer generate --model smollm2-135m --temperature 0
    infer generate --model smollm2-135m --prompt-field question questions.jsonl - | jq -r '.choices[0].text'
    """
    from infer.core.jobs.tasks.generate import GenerateTask

    return run_command(writing_spec(io, GenerateTask.of, Prompts.of(prompt_field, template)))
