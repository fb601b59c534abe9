"""The task spec of `infer batch`: what its options say for a model that writes and for one that pools; the model's plan decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ....errors import ConfigError, ModelError
from ..chat import ChatTask
from ..classify.spec import ClassifySpec
from ..completion import CompletionOptions
from ..pooling_spec import EmbedSpec, PoolingSpec, ScoreSpec
from ..protocol import AnyTask
from ..spec import Say, TaskSpec, WritingSpec
from ..transcribe.spec import TranscribeSpec
from .responses import ResponsesTask
from .task import BatchTask

if TYPE_CHECKING:
    from ....build.plan import Plan
    from ..base import RecordOptions

#: Makes a task of conversations with options, for the model of a plan.
MakeChat = Callable[[CompletionOptions, "Plan", type[ChatTask]], ChatTask]


@dataclass(frozen=True)
class WritingBatch(WritingSpec):
    """Of a model that writes: completions, conversations and responses, labels that a line names, and transcripts of one that reads sound.

    `make`: the task of completions; `make_chat`: that of conversations, which a model without a chat template does not answer;
    `classify`: what is said of labels; `transcribe`: what is said of sounds.
    """

    make_chat: MakeChat | None = None
    classify: ClassifySpec | None = None
    transcribe: TranscribeSpec | None = None

    def _make(self, options: CompletionOptions, plan: Plan) -> AnyTask:
        tasks: dict[str, Any] = {"generate": self.make(options, plan)}
        why_not: dict[str, str] = {}
        assert self.make_chat is not None
        try:
            tasks["chat"] = self.make_chat(options, plan, ChatTask)
            tasks["batch"] = self.make_chat(options, plan, ResponsesTask)
        except (ModelError, ConfigError) as error:
            if any(self.chat.get(name) for name in ("chat_template", "tool_call_parser", "reasoning_parser")):
                raise  # somebody counts on conversations
            why_not = dict.fromkeys(("chat", "batch"), str(error))
        assert self.classify is not None
        try:
            labels = self.classify.settled(plan, options.warn)
            tasks["classify"] = labels.make_task(plan, warn=options.warn, fingerprint=options.fingerprint, now=options.now)
        except ConfigError as error:  # without a tokenizer
            why_not["classify"] = str(error)
        assert self.transcribe is not None
        try:
            sounds = self.transcribe.settled(plan, options.warn)
            tasks["transcribe"] = sounds.make_task(plan, warn=options.warn, fingerprint=options.fingerprint, now=options.now)
        except ConfigError as error:  # text is all that it reads
            why_not["transcribe"] = str(error)
        return BatchTask(options, tasks, does="generates text", why_not=why_not)

    def clock(self, plan: Plan, now: datetime) -> dict[str, str]:
        try:
            return super().clock(plan, now)
        except (ModelError, ConfigError):  # no template: none can tell the time
            return {}


@dataclass(frozen=True)
class PoolingBatch(PoolingSpec):
    """Of a model that pools: embeddings and scores of an embedder, labels of a classifier, and scores of one with a single label."""

    embed: EmbedSpec | None = None
    score: ScoreSpec | None = None
    classify: ClassifySpec | None = None

    def make_task(self, plan: Plan, *, warn: Say, fingerprint: str = "", now: datetime | None = None) -> AnyTask:
        told: dict[str, Any] = {"warn": warn, "fingerprint": fingerprint, "now": now}
        tasks: dict[str, Any] = {name: spec.make_task(plan, **told) for name, spec in self._specs(plan).items()}
        does = "embeds texts" if "embed" in tasks else "classifies texts"
        return BatchTask(replace(self.options, model=plan.name, **told), tasks, does=does)

    def _make(self, options: RecordOptions, plan: Plan) -> AnyTask:
        raise AssertionError("its parts make the tasks")

    def _specs(self, plan: Plan) -> Mapping[str, PoolingSpec]:
        assert self.embed is not None
        assert self.score is not None
        recipe = plan.must_pool()
        if recipe.per_token:
            raise ConfigError(f"{plan.source.name} scores the tokens of a text, which has no form in OpenAI Batch lines: use infer score")
        if recipe.kind == "embed":
            return {"embed": self.embed, "score": self.score}
        assert self.classify is not None
        classify = self.classify.settled(plan, self.options.warn)
        assert isinstance(classify, PoolingSpec)
        return {"classify": classify, "score": self.score} if recipe.size == 1 else {"classify": classify}

    def job(self, plan: Plan) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for spec in self._specs(plan).values():
            found |= spec.job(plan)
        return found

    def defaults(self, plan: Plan) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for spec in self._specs(plan).values():
            found |= spec.defaults(plan)
        return found

    def clock(self, plan: Plan, now: datetime) -> dict[str, str]:
        found: dict[str, str] = {}
        for spec in self._specs(plan).values():
            found |= spec.clock(plan, now)
        return found


@dataclass(frozen=True)
class BatchSpec(TaskSpec):
    """What was asked for, before it is known what the model does.

    Args:
        writing, pooling: the spec for either kind of model.
        only_writing, only_pooling: options that were given and mean something to one kind alone, as they are typed.
    """

    writing: WritingBatch
    pooling: PoolingBatch
    only_writing: tuple[str, ...] = field(default=())
    only_pooling: tuple[str, ...] = field(default=())

    def settled(self, plan: Plan, say: Say) -> TaskSpec:
        writes = plan.recipe is None
        wrong = self.only_pooling if writes else self.only_writing
        if wrong:
            does = "generates text" if writes else "embeds texts" if plan.must_pool().kind == "embed" else "classifies texts"
            raise ConfigError(f"{wrong[0]} means nothing here: {plan.source.name} {does}; leave it out")
        return (self.writing if writes else self.pooling).settled(plan, say)

    def _make(self, options: RecordOptions, plan: Plan) -> AnyTask:
        raise AssertionError("it is settled first")

    def job(self, plan: Plan) -> dict[str, Any]:
        raise AssertionError("it is settled first")

    def defaults(self, plan: Plan) -> dict[str, Any]:
        raise AssertionError("it is settled first")
