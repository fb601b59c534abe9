"""`infer score`: how well the pairs of texts of a JSONL file go together."""

from __future__ import annotations

from functools import partial

import click

from .job import run_command
from .options import Command, JobOptions, engine_options, io_options
from .options.embed import SCORE, pooling_options
from .options.prompt import Prompts, literal_option
from .options.sampling import truncate_option
from .spec import score_spec


@click.command(cls=Command)
@io_options
@literal_option
@truncate_option
@partial(pooling_options, only=SCORE)
@partial(engine_options, without=frozenset({"task"}))
def score(*, io: JobOptions) -> int:
    """Score pairs of texts of a JSONL file; one output line per record, in input order.

    IN and OUT are files, or - for stdin and stdout (the default). A record has `query` and `documents` (a list), answered by `scores`,
    or `text_1` and `text_2`, answered by `score`. A model that scores tokens (a process reward model) takes `input` or `text`, answered
    by `scores`: one for each end of a step. A cross-encoder (a classifier of one label) reads each pair at once. Any other model
    embeds each text, and a score is the similarity its files name, or else the cosine; MaxSim with ColBERT, and with CLIP and SigLIP
    `image` goes with `documents` or `text`, and `query` with `images` (infer help embeddings). OpenAI-like Batch lines
    (/v1/score, /v1/rerank) are answered in their own form. A record that fails has its error in its place, and the exit status is then 3.

    \b
    infer score --model all-minilm-l6-v2 sample_data/score.jsonl scores.jsonl
    echo '{"query": "a cat", "documents": ["a kitten", "a car"]}' | infer score --model all-minilm-l6-v2
    infer score --model all-minilm-l6-v2 --truncate right --query-prefix "query: " pairs.jsonl scores.jsonl
    """
    return run_command(score_spec(io, Prompts.of()))
