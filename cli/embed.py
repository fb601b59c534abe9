"""`infer embed`: the vectors of the texts of a JSONL file."""

from __future__ import annotations

from functools import partial

import click

from .job import run_command
from .options import Command, JobOptions, engine_options, io_options
from .options.embed import EMBED, dtype_option, pooling_options
from .options.prompt import Prompts, prompt_options
from .options.sampling import truncate_option
from .spec import embed_spec


@click.command(cls=Command)
@partial(io_options, vectors=True)
@dtype_option
@prompt_options
@truncate_option
@partial(pooling_options, only=EMBED)
@partial(engine_options, without=frozenset({"task"}))
def embed(*, io: JobOptions, prompt_field: str | None, template: str | None) -> int:
    """Embed the texts of a JSONL file: one vector a record, in input order.

    IN and OUT are files, or - for stdin and stdout (the default). A record is a JSON object with `input` (or `text`): a
    string, or a list of token ids; of a list of these the answer has `embeddings`. Models of images and texts (CLIP, SigLIP) take
    `image` or `images`; models of late interaction (ColBERT) answer a list of vectors, one a token. A record may have an `id`,
    `dimensions`, `encoding_format`, `prompt_name` and `truncate` of its own; other fields come back in `extra`. OpenAI Batch lines
    (/v1/embeddings) are answered in their own form. Vectors are made as the model's sentence-transformers files say: pooling,
    prompts, dense layers, normalization. A record that fails has its error in its place, and the exit status is then 3.

    \b
    infer embed --model all-minilm-l6-v2 sample_data/embed.jsonl vectors.jsonl
    infer embed --model all-minilm-l6-v2 sample_data/embed.jsonl vectors.npy
    infer embed --model all-minilm-l6-v2 --truncate right --prompt-field body --encoding base64 pages.jsonl vectors.jsonl
    """
    return run_command(embed_spec(io, Prompts.of(prompt_field, template)))
