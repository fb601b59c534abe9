"""`infer classify`: the labels of the texts of a JSONL file."""

from __future__ import annotations

from functools import partial

import click

from .job import run_command
from .options import Command, JobOptions, engine_options, io_options
from .options.chat import chat_flags, chat_options
from .options.classify import classify_options
from .options.prompt import Prompts, prompt_options
from .options.sampling import truncate_option
from .spec import classify_spec


@click.command(cls=Command)
@io_options
@prompt_options
@classify_options
@partial(chat_options, reads=False)
@truncate_option
@engine_options
def classify(*, io: JobOptions, prompt_field: str | None, template: str | None) -> int:
    """Label the texts of a JSONL file, with a classifier or a language model; one output line per record, in input order.

    IN and OUT are files, or - for stdin and stdout (the default). A language model chooses among the labels of --label, or a record's own
    `labels`: a record has `prompt` (or `prompt_token_ids`) or `messages`, and each label counts by the probability that the model writes it
    next, in whole. A classifier (*ForSequenceClassification) has labels of its own: a record has `input` (or `text`), or `text_1` and
    `text_2`. The answer is `label` and `probs`, best first; `infer help classify` tells more. A record that fails has its error in
    its place, and the exit status is then 3.

    \b
    infer classify --model smollm2-135m --label positive --label negative --template review.jinja reviews.jsonl labels.jsonl
    echo '{"prompt": "Paris is the capital of", "labels": ["France", "Spain"]}' | infer classify --model smollm2-135m
    infer classify --model ./my-classifier texts.jsonl labels.jsonl
    """
    return run_command(classify_spec(io, Prompts.of(prompt_field, template), chat_flags()))
