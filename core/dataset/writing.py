"""`Generate` and `Chat`: the model writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..jobs.tasks.chat import ChatOptions, ChatTask
from ..jobs.tasks.completion import CompletionOptions
from ..jobs.tasks.generate import GenerateTask
from ..jobs.tasks.spec import WritingSpec
from ..text.chat import template_text
from . import shapes
from .arguments import sampling, take_sampling, template_of
from .transform import Transform

if TYPE_CHECKING:
    from ..build.plan import Plan
    from ..jobs.tasks.adapters.declared import Adapters
    from ..jobs.tasks.protocol import AnyTask
    from ..jobs.tasks.spec import TaskSpec
    from ..settings.args import EngineArgs


class _Writing(Transform):
    """
    Args:
        system: what conversations begin with.
        settings: fields of EngineArgs and of SamplingParams; a row's own fields win over the latter, and they over the model's
            generation_config.json.
    """

    _answers_have: Mapping[str, Any]

    def __init__(
        self,
        model: str,
        *,
        prompt_field: str | None = None,
        template: str | None = None,
        literal_special_tokens: bool = False,
        strict: bool = False,
        system: str | None = None,
        **settings: Any,
    ) -> None:
        own = {name: settings.pop(name) for name in ("index_field", "keep_input", "now") if name in settings}
        self._given = take_sampling(settings)
        self._options = CompletionOptions(
            prompt_field=prompt_field,
            template=template_of(template, prompt_field),
            literal_special_tokens=literal_special_tokens,
            strict=strict,
            system=system,
            defaults=sampling(self._given),
            max_tokens_given="max_tokens" in self._given,
            by_priority=settings.get("scheduling_policy") == "priority",
        )
        super().__init__(model, **own, **settings)

    def _spec(self, adapters: Adapters) -> TaskSpec:
        return WritingSpec(replace(self._options, adapters=adapters), {}, self._make, self._given)

    def _make(self, options: CompletionOptions, plan: Plan) -> AnyTask:
        raise NotImplementedError

    def _answer(self, plan: Plan, spec: TaskSpec) -> Mapping[str, Any]:
        return self._answers_have


class Generate(_Writing):
    """Completes the prompts of rows (`prompt` or `prompt_token_ids`), as `infer generate` does. See `Transform`.

    Args:
        prompt_field: the column that is the prompt.
        template: jinja2 text that makes the prompt of a row's fields.
        literal_special_tokens: text that spells a special token is only text.
        strict: a misspelled field is its row's error.
        settings: see `Transform`, and fields of SamplingParams such as `max_tokens` and `temperature`: a row's own win.
    """

    _answers_have = shapes.GENERATE

    def _make(self, options: CompletionOptions, plan: Plan) -> AnyTask:
        return GenerateTask.of(options, plan)


class Chat(_Writing):
    """Answers the conversations of rows (`messages`, `tools` and the rest), as `infer chat` does. See `Generate`.

    Args:
        system: the system message of conversations that have none.
        chat_template: a file, jinja2 text, or the name of one of the model's templates; None: the model's own.
        chat_template_content_format: "auto", "string" or "openai": how the template gets contents.
        chat_template_kwargs: variables of the template; those of a row win.
        tool_call_parser, reasoning_parser: the forms in which the model calls functions, and reasons.
    """

    _answers_have = shapes.CHAT

    def __init__(
        self,
        model: str,
        *,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tool_call_parser: str | None = None,
        reasoning_parser: str | None = None,
        **settings: Any,
    ) -> None:
        self._chat_options = ChatOptions(chat_template_kwargs or {}, tool_call_parser, reasoning_parser)
        self._template = None if chat_template is None else template_text(chat_template)
        self._content_format = chat_template_content_format
        super().__init__(model, **settings)

    def _with_settings(self, args: EngineArgs) -> EngineArgs:
        parser = self._chat_options.reasoning_parser
        return args if parser is None or args.reasoning_config else replace(args, reasoning_config={"reasoning_parser": parser})

    def _make(self, options: CompletionOptions, plan: Plan) -> AnyTask:
        chat = plan.chat_template(self._template, content_format=self._content_format)
        return ChatTask(options, plan.tokenizer, chat, max_model_len=plan.config.max_model_len, chat_options=self._chat_options)
