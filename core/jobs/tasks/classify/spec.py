"""Task specs of `infer classify`: which of its tasks it is, the model says.

ClassifySpec         what was typed
├── ClassifierSpec   with a classifier
└── LabelSpec        with a language model
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ....errors import ConfigError, RecordError
from ..base import RecordOptions
from ..pooling_spec import PoolingSpec
from ..spec import Say, TaskSpec
from .classifier import ClassifierOptions, ClassifierTask
from .labels import LabelOptions, LabelTask

if TYPE_CHECKING:
    from ....build.plan import Plan
    from ....text.chat import ChatTemplate
    from ..base import Task
    from ..chat import ChatOptions


@dataclass(frozen=True)
class ClassifySpec(TaskSpec):
    """
    Args:
        options: of a language model.
        truncate: the end that is cut off texts of a classifier.
        threshold: see `ClassifierOptions`; None: its default.
        chat_template: gives the chat template that is to be used. Raises ModelError where there is none.
        chat_options: of conversations.
        chat: what of these can change an answer.
    """

    options: LabelOptions
    truncate: str | None = None
    threshold: float | None = None
    chat_template: Callable[[Plan], ChatTemplate] | None = None
    chat_options: ChatOptions | None = None
    chat: Mapping[str, Any] | None = None

    def settled(self, plan: Plan, say: Say) -> TaskSpec:
        recipe = plan.recipe
        if recipe is None:
            return self._of_labels(plan, say)
        name = plan.source.name
        if recipe.kind != "classify":
            raise ConfigError(f"model {name!r} embeds texts and has no labels: use infer embed, or a classifier or language model")
        if recipe.per_token:
            raise ConfigError(f"model {name!r} labels the tokens of a text and not the text: use infer score, or LLM(...).encode")
        for what, given in (("--label", self.options.labels), ("--calibration-prompt", self.options.calibration_prompt)):
            if given:
                own = ", ".join(recipe.labels[:5]) + (", …" if len(recipe.labels) > 5 else "")
                raise ConfigError(f"model {name!r} is a classifier with labels of its own ({own}): leave {what} out")
        common = {one.name: getattr(self.options, one.name) for one in fields(RecordOptions)}
        threshold = 0.5 if self.threshold is None else self.threshold
        return ClassifierSpec(ClassifierOptions(**common, truncate=self.truncate, threshold=threshold), self.prompts)

    def _of_labels(self, plan: Plan, say: Say) -> LabelSpec:
        if plan.tokenizer is None:
            raise ConfigError("labels need a tokenizer, and with skip_tokenizer_init there is none")
        if self.threshold is not None:
            raise ConfigError("--threshold is for classifiers whose labels do not exclude each other; labels of a language model do")
        made = LabelSpec(self.options, self.prompts, self.chat_template, self.chat_options, self.chat or {})
        try:
            task = made._make(self.options, plan)
        except RecordError as error:  # of the command's own labels
            raise ConfigError(f"--label: {error.message.removeprefix('labels: ')}") from None
        assert isinstance(task, LabelTask)
        if task.shadowed:
            shorter, longer = task.shadowed
            say(f"label {shorter!r} begins {longer!r}: what goes on as the longer one does not count for it")
        return made

    def _make(self, options: Any, plan: Plan) -> Task[Any]:
        raise AssertionError("it is settled first")

    def job(self, plan: Plan) -> dict[str, Any]:
        raise AssertionError("it is settled first")

    def defaults(self, plan: Plan) -> dict[str, Any]:
        raise AssertionError("it is settled first")


@dataclass(frozen=True)
class ClassifierSpec(PoolingSpec):
    """See `TaskSpec`."""

    options: ClassifierOptions

    def _make(self, options: ClassifierOptions, plan: Plan) -> Task[Any]:
        return ClassifierTask(options, plan.tokenizer, plan.must_pool(), max_model_len=plan.config.max_model_len)

    def _own(self, plan: Plan) -> dict[str, Any]:
        return {"threshold": self.options.threshold}

    def defaults(self, plan: Plan) -> dict[str, Any]:
        recipe = plan.must_pool()
        made = {"by": "classifier", "labels": list(recipe.labels), "activation": recipe.activation}
        return {"classifying": {**made, "threshold": self.options.threshold, "truncate": self.options.truncate}}


@dataclass(frozen=True)
class LabelSpec(TaskSpec):
    """See `TaskSpec`, and `ClassifySpec` of the arguments."""

    options: LabelOptions
    chat_template: Callable[[Plan], ChatTemplate] | None
    chat_options: ChatOptions | None
    chat: Mapping[str, Any]

    def _make(self, options: LabelOptions, plan: Plan) -> Task[Any]:
        assert plan.tokenizer is not None
        chat = self._template(plan)
        return LabelTask(options, plan.tokenizer, chat, max_model_len=plan.config.max_model_len, chat_options=self.chat_options)

    def _template(self, plan: Plan) -> ChatTemplate | None:
        """None of a model that has none, unless one is needed for every record."""
        from ....errors import ModelError

        if self.chat_template is None:
            return None
        try:
            return self.chat_template(plan)
        except ModelError:
            if self.options.as_chat or self.chat.get("chat_template") is not None:
                raise
            return None

    def clock(self, plan: Plan, now: Any) -> dict[str, str]:
        chat, told = self._template(plan), super().clock(plan, now)
        return told if chat is None else told | chat.readings(now)

    def job(self, plan: Plan) -> dict[str, Any]:
        return {**self.prompts, **self.chat, **self._own(), **self.options.adapters.fingerprint(plan.config)}

    def defaults(self, plan: Plan) -> dict[str, Any]:
        return {"classifying": {"by": "labels", **self._own()}}

    def _own(self) -> dict[str, Any]:
        options, cut = self.options, self.options.defaults
        return {
            "labels": list(options.labels),
            "calibration_prompt": options.calibration_prompt,
            "as_chat": options.as_chat,
            "truncate_prompt_tokens": cut.truncate_prompt_tokens,
            "truncation_side": cut.truncation_side,
        }
