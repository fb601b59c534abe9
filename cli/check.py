"""`infer check`: what a run would make of its input, without the model's weights."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from .beam_options import beam_params
from .chat_options import ChatFlags, chat_flags, chat_options
from .embed_options import EMBED, SCORE, matrix_options, pooling_options
from .findings import check_input
from .options import Command, IoOptions, engine_options, input_options, sampling_options
from .pooling_work import EmbedWork, ScoreWork
from .prompt_options import Prompts, prompt_options
from .work import Completions, Say, Work

if TYPE_CHECKING:
    from infer.core.build.plan import Plan
    from infer.core.jobs.record import Record
    from infer.core.jobs.tasks.base import Task
    from infer.core.jobs.tasks.completion import TaskOptions


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
    prompts = Prompts.of(prompt_field, template)
    work: Work
    if kind == "embed":
        work = EmbedWork(io, prompts)
    elif kind == "score":
        work = ScoreWork(io, prompts)
    else:
        work = _Writing(io, prompts, kind, chat_flags())

    def for_plan(plan: Plan) -> Work:
        if kind != "auto" or plan.recipe is None:
            return work
        return ScoreWork(io, prompts) if plan.recipe.kind == "classify" else _Embedding(io, prompts)

    return check_input(work, for_plan=for_plan, as_json=as_json, tokens_per_second=tokens_per_second)


class _Writing(Completions):
    """The command named `kind`, or the one that the first record is for."""

    def __init__(self, io: IoOptions, prompts: Prompts, kind: str, chat: ChatFlags) -> None:
        super().__init__(io, self._task, prompts, system=chat.system)
        self._kind, self._flags = kind, chat
        self._first: Record | None = None

    def make_task(self, plan: Plan, *, warn: Say, fingerprint: str = "", first: Record | None = None) -> Task:
        self._first = first
        return super().make_task(plan, warn=warn, fingerprint=fingerprint)

    def _task(self, options: TaskOptions, plan: Plan) -> Task:
        if self._kind == "chat" or (self._kind == "auto" and _has(self._first, "messages")):
            return self._flags.make_task(options, plan)
        if self._kind == "beam" or (self._kind == "auto" and _has(self._first, "beam_width")):
            from infer.core.jobs.tasks.beam import BeamTask

            return BeamTask(replace(options, beam=beam_params()), plan.tokenizer, max_model_len=plan.config.max_model_len)
        from infer.core.jobs.tasks.generate import GenerateTask

        return GenerateTask(options, plan.tokenizer, max_model_len=plan.config.max_model_len)


class _Embedding(EmbedWork):
    """infer embed, or infer score if the first record is for that."""

    def make_task(self, plan: Plan, *, warn: Say, fingerprint: str = "", first: Record | None = None) -> Task:
        if not (_has(first, "documents") or _has(first, "text_1")):
            return super().make_task(plan, warn=warn, fingerprint=fingerprint)
        score = ScoreWork(self.io, self.prompts)
        score.learn(plan, warn)
        return score.make_task(plan, warn=warn)


def _has(record: Record | None, name: str) -> bool:
    """Whether a record, or the OpenAI Batch line it is, has a field."""
    if record is None:
        return False
    body = record.fields.get("body")
    return name in (body if isinstance(body, dict) else record.fields)
