"""Options of the commands that read conversations: those of `infer chat` about messages and the chat template."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from infer.core.errors import ConfigError
from infer.core.jobs.tasks.chat import ChatOptions, ChatTask
from infer.core.text import calls, reasoning
from infer.core.text.chat import CONTENT_FORMATS, ChatTemplate, template_text

from ..command import Option, with_options

if TYPE_CHECKING:
    from infer.core.build.plan import Plan
    from infer.core.jobs.tasks.completion import CompletionOptions

F = TypeVar("F", bound=Callable[..., Any])

_CHAT = "infer.chat"
_option = partial(click.option, cls=Option, group="Conversations", store=_CHAT, default=None)
#: Of the options so many are about prompts.
_OF_PROMPTS = 4


def chat_options(command: F, *, reads: bool = True) -> F:
    """Adds the options; read them with `chat_flags()`.

    Args:
        reads: whether answers are messages, which parsers read.
    """
    options = [
        _option("--system", metavar="TEXT", help="System message for conversations that have none."),
        _option(
            "--chat-template",
            metavar="FILE|NAME|TEXT",
            help="Use this chat template: a file, one of the model's several templates by its name, or jinja2 text.",
        ),
        _option(
            "--chat-template-content-format",
            type=click.Choice(CONTENT_FORMATS),
            shown="auto",
            help="Form of a message's content that the template gets: a string, or OpenAI's list of parts; auto: what it seems to take.",
        ),
        _option(
            "--chat-template-kwargs",
            metavar="JSON",
            help="Variables for the template, an object; those of a record's chat_template_kwargs win.",
        ),
        _option(
            "--trust-request-chat-template/--no-trust-request-chat-template",
            shown=False,
            help="Use a record's own chat_template, where it has one; it runs in the same sandbox.",
        ),
        _option(
            "--tool-call-parser",
            type=click.Choice([calls.AUTO, *calls.PARSERS]),
            help="How the model writes function calls: they become the message's tool_calls where a record has tools; auto: as "
            "its chat template shows.",
        ),
        _option(
            "--reasoning-parser",
            type=click.Choice(sorted(reasoning.PARSERS)),
            help="How the model writes its reasoning: it becomes the message's reasoning_content.",
        ),
    ]
    return with_options(command, options if reads else options[:_OF_PROMPTS])


@dataclass(frozen=True)
class ChatFlags:
    """The options of the running command, checked as far as the model is not needed. `template` is jinja2 text, or a template's name."""

    system: str | None = None
    template: str | None = None
    content_format: str = "auto"
    options: ChatOptions = field(default_factory=ChatOptions)

    def make_task(self, options: CompletionOptions, plan: Plan, kind: type[ChatTask] = ChatTask) -> ChatTask:
        """The task of conversations, of that kind. Raises ConfigError, ModelError."""
        template = self.chat_template(plan)
        return kind(options, plan.tokenizer, template, max_model_len=plan.config.max_model_len, chat_options=self.options)

    def chat_template(self, plan: Plan) -> ChatTemplate:
        """The template of conversations with this model. Raises ConfigError, ModelError."""
        return plan.chat_template(self.template, content_format=self.content_format)

    def to_json(self) -> dict[str, Any]:
        """Those that can change an answer."""
        return {
            "system": self.system,
            "chat_template": self.template,
            "chat_template_content_format": self.content_format,
            "chat_template_kwargs": dict(self.options.chat_template_kwargs),
            "tool_call_parser": self.options.tool_call_parser,
            "reasoning_parser": self.options.reasoning_parser,
            "trust_request_chat_template": self.options.trust_request_chat_template,
        }


def chat_flags() -> ChatFlags:
    """The options given on the running command's line. Raises ConfigError."""
    given = dict(click.get_current_context().meta.get(_CHAT, {}))
    template = given.get("chat_template")
    return ChatFlags(
        given.get("system"),
        None if template is None else template_text(template),
        given.get("chat_template_content_format") or "auto",
        ChatOptions(
            _kwargs(given.get("chat_template_kwargs")),
            given.get("tool_call_parser"),
            given.get("reasoning_parser"),
            trust_request_chat_template=bool(given.get("trust_request_chat_template")),
        ),
    )


def _kwargs(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--chat-template-kwargs is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError('--chat-template-kwargs must be a JSON object, such as {"enable_thinking": false}')
    return value
