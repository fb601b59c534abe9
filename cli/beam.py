"""`infer beam`: the best continuations of the prompts of a JSONL file."""

from __future__ import annotations

import click

from .job import run_command
from .options import Command, JobOptions, engine_options, io_options
from .options.beam import beam_options, beam_params
from .options.prompt import Prompts, language_option, prompt_options
from .spec import writing_spec


@click.command(cls=Command)
@io_options
@prompt_options
@language_option
@beam_options
@engine_options
def beam(*, io: JobOptions, prompt_field: str | None, template: str | None) -> int:
    """Search for the best continuations of the prompts of a JSONL file; one output line per record, in input order.

    IN and OUT are files, or - for stdin and stdout (the default). Records are those of infer generate; `beam_width`, `num_return`,
    `length_penalty`, `early_stopping`, `scoring` and the options below may stand in them too. Choices come best first, each with its
    `score` and `cumulative_logprob`; `text` is what follows the prompt. A record that fails has its error in its place, and the exit
    status is then 3.

    \b
    infer beam --model smollm2-135m --width 4 sample_data/beam.jsonl answers.jsonl
    echo '{"prompt": "The capital of France is"}' | infer beam --model smollm2-135m --width 8 --num-return 2
    infer beam --model smollm2-135m --scoring hf --length-penalty 0.8 --early-stopping true in.jsonl out.jsonl
    """
    from infer.core.jobs.tasks.beam import BeamTask

    return run_command(writing_spec(io, BeamTask.of, Prompts.of(prompt_field, template), beam=beam_params()))
