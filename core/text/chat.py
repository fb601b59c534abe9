"""Chat prompts: conversations put into words by the model's chat template."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, ModelError, RecordError, nearest
from ..spec.hf_values import shown
from ..types.media import MediaKind
from .messages import prepare
from .special_tokens import Reader
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .literal import LiteralText
    from .templates.content import ContentFormat
    from .templates.template import Template

#: Templates in files of their own, as transformers saves them.
_FILES = {"default": "chat_template.jinja", "tool_use": "additional_chat_templates/tool_use.jinja"}

#: What a user may say of the content a template takes.
CONTENT_FORMATS = ("auto", "string", "openai")

#: What a template's text has and a name has not.
_JINJA = frozenset("{}\n")

#: Marks where the last message ends when it is to be continued. The final space shows whether the template trims content.
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class ChatTemplate:
    """A model's chat template, or one given in its place.

    Loading never fails for want of a template: `require()`, which `infer chat` calls at start, and `render` do.
    """

    def __init__(self, sources: Mapping[str, str], tokenizer: Tokenizer, *, origin: str, content_format: str = "auto") -> None:
        """`sources`: name -> jinja2 text ("default", "tool_use", ...); `origin`: where they come from, for messages.

        `content_format`: whether the template gets a message's content as a "string" or as OpenAI's list of parts ("openai"); "auto"
        reads from the template which of them it takes. Raises ConfigError for another one.
        """
        if content_format not in CONTENT_FORMATS:
            raise ConfigError(f"unknown chat template content format {content_format!r}; available: {', '.join(CONTENT_FORMATS)}")
        self._content_format = content_format
        self._sources = dict(sources)
        self._tokenizer = tokenizer
        self._origin = origin
        self._compiled: dict[str, tuple[Template, ContentFormat]] = {}
        self._literal: LiteralText | None = None
        self._placeholder: Callable[[MediaKind], str] | None = None
        self._now: datetime | None = None
        self._blamed = "messages"

    @property
    def source(self) -> str:
        """The jinja2 text of its templates, one after the other, those for tools first."""
        return "\n".join(self._sources[name] for name in sorted(self._sources, key=lambda name: name != "tool_use"))

    @classmethod
    def load(cls, read: Reader, tokenizer: Tokenizer, *, override: str | None = None, content_format: str = "auto") -> ChatTemplate:
        """The template to use: `override` (jinja2 text as `template_text` gives it, or the name of one of the model's templates), else
        the model's chat_template.jinja, tokenizer_config.json or chat_template.json, the first that has one. Of several, a
        conversation with tools gets "tool_use", others "default".

        Raises ConfigError for a name the model has no template of, ModelError for a file that has something else in the place of one,
        and as the class does.
        """
        if override is not None and not _JINJA.isdisjoint(override):  # whatever the model's own may be
            return cls({"default": override}, tokenizer, origin="the given chat template", content_format=content_format)
        sources, origin = _find(read)
        if override is not None:
            if override not in sources:
                there = f"it has: {', '.join(sorted(sources))}" if sources else "it has none"
                raise ConfigError(
                    f"chat template {override!r} is neither a file, nor jinja2 text, nor one of the model's templates "
                    f"({there}){nearest(override, sources)}"
                )
            sources, origin = {"default": sources[override]}, f"{origin} ({override})"
        return cls(sources, tokenizer, origin=origin, content_format=content_format)

    def literally(self) -> ChatTemplate:
        """This template, with a `render` for which what messages, tools and documents spell is never a special token.

        Its prompts are settled ones, for `Tokenizer.encode_literal`. Roles are the template's own words and stay as they are.
        Raises ConfigError if the tokenizer cannot do it.
        """
        twin = copy.copy(self)
        twin._literal = self._tokenizer.literal
        return twin

    def seeing(self, placeholder: Callable[[MediaKind], str]) -> ChatTemplate:
        """This template, for messages with media too. `placeholder`: the text that stands for one of a kind, if it writes none."""
        twin = copy.copy(self)
        twin._placeholder = placeholder
        return twin

    def replaced(self, source: str) -> ChatTemplate:
        """This with a record's own template in its place, which is sandboxed and bounded like any other.

        Raises RecordError (invalid_value, template_error), param "chat_template", unless it is jinja2 text.
        """
        if _JINJA.isdisjoint(source):
            raise RecordError("invalid_value", "chat_template is not jinja2 text", param="chat_template")
        twin = copy.copy(self)
        twin._sources, twin._origin, twin._blamed, twin._compiled = {"default": source}, "chat_template", "chat_template", {}
        try:
            twin.require()
        except ModelError as error:
            raise RecordError("template_error", str(error), param="chat_template") from None
        return twin

    def at(self, now: datetime) -> ChatTemplate:
        """This template at that time, whenever it is rendered."""
        twin = copy.copy(self)
        twin._now = now
        twin._compiled = {name: (template.at(now), content) for name, (template, content) in self._compiled.items()}
        return twin

    def readings(self, now: datetime) -> dict[str, str]:
        """The times that its templates can tell, see `Template.readings`. Raises ModelError as `require`."""
        found: dict[str, str] = {}
        for tools in (False, True):
            found |= self._choose(tools=tools)[0].readings(now)
        return found

    def require(self) -> None:
        """Raises ModelError if there is no template, or if it is no valid jinja2."""
        self._choose(tools=False)

    def render(
        self,
        messages: list[dict[str, Any]],
        /,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> str:
        """The prompt for a conversation.

        Args:
            messages: objects with role and content (a string, null or text parts).
            tools: JSON schemas of functions, as in OpenAI's API.
            add_generation_prompt: end with the beginning of an assistant's message.
            continue_final_message: end with the last message, left open for the model to go on.
            kwargs: more variables for the template (`chat_template_kwargs`, `documents`); those it does not know are harmless.

        Raises RecordError for wrong messages or arguments (invalid_type, missing_field, invalid_value, unsupported) and for
        whatever the template raises (template_error); ModelError as `require`.
        """
        for name, flag in (("add_generation_prompt", add_generation_prompt), ("continue_final_message", continue_final_message)):
            if not isinstance(flag, bool):
                raise RecordError("invalid_type", f"{name} must be true or false, not {type(flag).__name__}", param=name)
        if add_generation_prompt and continue_final_message:
            raise RecordError(
                "invalid_value",
                "continue_final_message needs add_generation_prompt=false: one continues the last message, the other begins a new one",
                param="continue_final_message",
            )
        _check_objects("tools", tools)
        _check_objects("documents", kwargs.get("documents"))
        if "messages" in kwargs:
            raise RecordError("invalid_value", "messages cannot be set by chat_template_kwargs", param="chat_template_kwargs")
        template, source, content = self._choose(tools=bool(tools))
        chat = prepare(
            messages,
            parts=content.parts,
            wrap=content.wrap,
            developer="developer" in source,
            text_arguments=content.text_arguments,
            placeholder=self._placeholder,
        )
        if continue_final_message and messages[-1].get("content") is None:
            raise RecordError("invalid_value", "continue_final_message: the last message has no content to continue", param="messages")
        if (literal := self._literal) is not None:
            chat = [{**literal.mark(message), "role": message["role"]} for message in chat]
            tools = literal.mark(tools)
            if "documents" in kwargs:
                kwargs["documents"] = literal.mark(kwargs["documents"])
        final = _open_final(chat) if continue_final_message else ""
        variables = {
            **self._tokenizer.special_tokens,
            "documents": None,
            **kwargs,
            "messages": chat,
            "tools": tools or None,
            "add_generation_prompt": add_generation_prompt,
        }
        text = template.render(variables, what="chat template", param=self._blamed)
        text = _cut_at_tag(text, final) if continue_final_message else text
        return text if literal is None else literal.settle(text)

    def ignored(self, tools: list[dict[str, Any]] | None, variables: Mapping[str, Any]) -> list[str]:
        """Names of the tools and variables that the template for them never looks at."""
        names = self._choose(tools=bool(tools))[2].names
        given = {**variables, "tools": tools}
        return [name for name, value in given.items() if value not in (None, [], {}) and name not in names]

    def encode(self, messages: list[dict[str, Any]], /, **options: Any) -> list[int]:
        """The token ids of `render(messages, **options)`. No special tokens are added: the template writes its own BOS."""
        text = self.render(messages, **options)
        if self._literal is not None:
            return self._tokenizer.encode_literal([text], add_special_tokens=False)[0]
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _choose(self, *, tools: bool) -> tuple[Template, str, ContentFormat]:
        """The compiled template for a conversation with or without tools, its text and the content it takes."""
        if not self._sources:
            raise ModelError(
                "the model has no chat template: nothing says how messages become a prompt. "
                "Give one with --chat-template, or send prompts to `infer generate`"
            )
        name = "tool_use" if tools and "tool_use" in self._sources else "default"
        if name not in self._sources:
            raise ModelError(
                f"{self._origin} has no default chat template; choose one with --chat-template: {', '.join(sorted(self._sources))}"
            )
        if name not in self._compiled:
            from .templates.content import ContentFormat
            from .templates.template import Template, TemplateSourceError

            try:
                template = Template(self._sources[name])
            except TemplateSourceError as e:
                raise ModelError(f"{self._origin} is not a valid jinja2 template: {e}") from e
            content = ContentFormat.named(self._content_format, template.parse())
            self._compiled[name] = (template if self._now is None else template.at(self._now), content)
        template, content = self._compiled[name]
        return template, self._sources[name], content


def template_text(given: str) -> str:
    """The chat template that a user gave, for `ChatTemplate.load`: the text of a file, if there is one of that name; else what was
    given, jinja2 text or the name of one of the model's templates. The same order as vLLM's.

    Raises ConfigError if the file cannot be read.
    """
    try:
        text = Path(given).read_text(encoding="utf-8")
        return text if not _JINJA.isdisjoint(text) else text + "\n"  # no name; jinja2 takes one newline off the end
    except (OSError, UnicodeDecodeError, ValueError) as e:  # ValueError: a null character
        missing = isinstance(e, (FileNotFoundError, NotADirectoryError))
        if not _JINJA.isdisjoint(given) or (missing and "/" not in given and not given.endswith(".jinja")):
            return given
        raise ConfigError(f"chat template {given!r} cannot be read: {getattr(e, 'strerror', None) or e}") from None


def _find(read: Reader) -> tuple[dict[str, str], str]:
    """The model's templates by name, and the file they are in."""
    found = {name: text for name, filename in _FILES.items() if (text := _text(read, filename)) is not None}
    if "default" in found:
        return found, _FILES["default"]
    for filename in ("tokenizer_config.json", "chat_template.json"):
        data = read(filename)
        if data is None:
            continue
        try:
            config = json.loads(data)
        except ValueError as e:
            raise ModelError(f"{filename} is not valid JSON: {e}") from e
        sources = _named(config.get("chat_template") if isinstance(config, dict) else None, filename)
        if sources:
            return sources, filename
    return {}, "the model"


def _text(read: Reader, filename: str) -> str | None:
    data = read(filename)
    try:
        return None if data is None else data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ModelError(f"{filename} is not UTF-8: {e}") from e


def _named(value: Any, filename: str) -> dict[str, str]:
    """Templates as configs write them: one string, a list of {name, template}, or an object name -> template. Raises ModelError."""
    if value is None:
        return {}
    named = {"default": value} if isinstance(value, str) else value
    if isinstance(value, list) and all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in value):
        named = {item["name"]: item.get("template") for item in value}
    if not isinstance(named, dict) or not all(isinstance(text, str) for text in named.values()):
        raise ModelError(
            f"{filename}: chat_template is {shown(value)}; it must be a template, a list of objects with a name and a template each, "
            "or an object of templates by name"
        )
    return named


def _check_objects(name: str, value: Any) -> None:
    if value is not None and not (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
        raise RecordError("invalid_type", f"{name} must be a list of objects", param=name)


def _open_final(chat: list[dict[str, Any]]) -> str:
    """Puts the tag after the text of the last message; returns that text."""
    content: str | list[dict[str, Any]] = chat[-1]["content"]
    if isinstance(content, list):
        if not content:
            raise RecordError("invalid_value", "continue_final_message: the last message has no content to continue", param="messages")
        text: str = content[-1]["text"]
        chat[-1]["content"] = [*content[:-1], {"type": "text", "text": text + _TAG}]
        return text
    chat[-1]["content"] = content + _TAG
    return content


def _cut_at_tag(text: str, final: str) -> str:
    """The rendered text up to the end of the last message's content."""
    at = text.rfind(_TAG.strip())
    if at < 0 or final.strip() not in text:
        raise RecordError(
            "template_error",
            "continue_final_message: the chat template leaves out or changes the last message, so it cannot be continued",
            param="messages",
        )
    # A template that trims content took the tag's space, and would have taken the space before it.
    return text[:at] if text.startswith(_TAG, at) else text[:at].rstrip()
