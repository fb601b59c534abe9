"""`infer batch`: answer the lines of an OpenAI Batch file, each as its url says."""

from __future__ import annotations

from functools import partial

import click

from ..job import run_command
from ..options import Command, JobOptions, engine_options, io_options, sampling_options
from ..options.chat import chat_options
from ..options.embed import BATCH, pooling_options
from ..options.prompt import literal_option
from .spec import batch_spec


@click.command(cls=Command)
@io_options
@literal_option
@chat_options
@partial(pooling_options, only=BATCH)
@sampling_options
@engine_options
def batch(*, io: JobOptions) -> int:
    """Answer the lines of an OpenAI Batch file, each as its url says; one output line per line, in input order.

    IN and OUT are files, or - for stdin and stdout (the default). A line is {"custom_id", "method", "url", "body"}. A model that generates
    answers /v1/completions, /v1/chat/completions, /v1/responses and /v1/classify (with `labels`); one that embeds /v1/embeddings, /v1/score
    and /v1/rerank (and /score, /rerank, /v2/rerank); a classifier /v1/classify, a cross-encoder scores and ranks too. Lines of all these
    may stand in one file. What the model cannot answer, and what is no such line, is an error in its place, in OpenAI's form, and the exit
    status is then 3. More: infer help batch-files.

    \b
    infer batch --model smollm2-135m sample_data/batch.jsonl answers.jsonl
    infer batch --model all-minilm-l6-v2 sample_data/batch_embed.jsonl answers.jsonl
    """
    return run_command(batch_spec(io))
