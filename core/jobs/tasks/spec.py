"""TaskSpec: what a command makes of records, as its options say. The task itself is made once the model's plan is known.

TaskSpec          a face for all
├── WritingSpec   generate, chat, beam: the model writes
├── PoolingSpec   embed, score: the model only reads (pooling_spec.py)
└── BatchSpec     batch: either, as the model does (batch/spec.py)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import ConfigError, RecordError
from .adapters.chooser import Chooser
from .completion import CompletionOptions
from .defaults import check_constraint, check_thinking, with_model_defaults

if TYPE_CHECKING:
    from ...build.plan import Plan
    from .base import RecordOptions
    from .protocol import AnyTask

Say = Callable[[str], None]


@dataclass(frozen=True)
class TaskSpec(ABC):
    """
    Args:
        options: of records.
        prompts: what of the options about prompts can change an answer.
    """

    options: RecordOptions
    prompts: Mapping[str, Any]

    #: Texts are only read: there are no output tokens.
    pools: ClassVar[bool] = False

    def settled(self, plan: Plan, say: Say) -> TaskSpec:
        """This with what only the model's files tell; `say` tells the user. Raises ConfigError, ModelError."""
        return self

    def make_task(self, plan: Plan, *, warn: Say, fingerprint: str = "", now: datetime | None = None) -> AnyTask:
        """The task, for a job at the time `now`."""
        chooser = Chooser.of(self.options.adapters, plan, warn)
        media: dict[str, Any] = {"placing": plan.placing, "images": plan.image_reader}
        options = replace(self.options, warn=warn, fingerprint=fingerprint, model=plan.name, now=now, chooser=chooser, **media)
        return self._make(options, plan)

    @abstractmethod
    def _make(self, options: Any, plan: Plan) -> AnyTask:
        """The task with the options as they are in the end."""

    @abstractmethod
    def job(self, plan: Plan) -> dict[str, Any]:
        """The command's own options that can change an answer, for the fingerprint."""

    @abstractmethod
    def defaults(self, plan: Plan) -> dict[str, Any]:
        """The parameters that were asked of every record, for --stats: {"sampling": …} or {"embedding": …}."""

    def clock(self, plan: Plan, now: datetime) -> dict[str, str]:
        """Times that the templates in use can show at `now`, by format; see `Template.readings`. Raises ConfigError, ModelError."""
        return {} if self.options.template is None else self.options.template.readings(now)

    @property
    def max_tokens(self) -> int | None:
        """Output tokens of a record that asks for no number."""
        return None

    def matrix(self, plan: Plan) -> tuple[int, Mapping[str, str]] | None:
        """Length of the vectors, and how they are made, where rows are vectors."""
        return None


@dataclass(frozen=True)
class WritingSpec(TaskSpec):
    """
    Args:
        make: the task.
        given: sampling parameters that were typed: the model's own never take their place.
        chat: what of the options of `infer chat` can change an answer.
    """

    options: CompletionOptions
    make: Callable[[CompletionOptions, Plan], AnyTask]
    given: Mapping[str, Any] = field(default_factory=dict)
    chat: Mapping[str, Any] = field(default_factory=dict)

    def settled(self, plan: Plan, say: Say) -> WritingSpec:
        plan.must_generate()
        _check_language(self.options.target_language, plan)
        if self.options.beam is not None:
            return self
        check_constraint(self.options.defaults, plan)
        check_thinking(self.options.defaults, plan)
        defaults = with_model_defaults(self.options.defaults, self.given, plan, say)
        known = self.options.max_tokens_given or "max_tokens" in plan.sampling_defaults()[0]
        return replace(self, options=replace(self.options, defaults=defaults, max_tokens_known=known))

    def _make(self, options: CompletionOptions, plan: Plan) -> AnyTask:
        return self.make(options, plan)

    def job(self, plan: Plan) -> dict[str, Any]:
        language = self.options.target_language
        told = {} if language is None else {"target_language": language}
        return {**self.prompts, **self.chat, **self._params, **told, **self.options.adapters.fingerprint(plan.config)}

    def clock(self, plan: Plan, now: datetime) -> dict[str, str]:
        told = super().clock(plan, now)
        return told | plan.chat_template(self.chat["chat_template"]).readings(now) if self.chat else told

    def defaults(self, plan: Plan) -> dict[str, Any]:
        return {"sampling": self._params}

    @property
    def max_tokens(self) -> int | None:
        return self.options.defaults.max_tokens

    @property
    def _params(self) -> dict[str, Any]:
        return asdict(self.options.beam or self.options.defaults)


def _check_language(language: str | None, plan: Plan) -> None:
    """Raises ConfigError for a language that the model does not write in."""
    if language is None:
        return
    if plan.decoder_prompts is None:
        raise ConfigError(f"--target-language is for models with an encoder and a decoder, and {plan.source.name!r} is none: leave it out")
    try:
        if plan.speech_tokens is not None:
            plan.speech_tokens.language_of(language)
        else:
            plan.decoder_prompts.language_token(language, "target_language")
    except RecordError as error:
        raise ConfigError(f"--target-language: {error.message}") from None
