"""`infer chat`: a conversation in, the next message out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, RecordError
from ...text.calls import AUTO, PARSERS, parser_of, tool_call_parser
from ...text.calls.parser import ToolCallParser
from ...text.reasoning import ReasoningParser, reasoning_parser
from ...text.spelling import Spelling
from ...types.media import MediaPart
from ...types.media_parts import of_fields, of_messages, with_media
from ...types.outputs import CompletionOutput
from ..jsonl import wrong_type
from . import tools
from .completion import MEDIA_FIELDS, MEDIA_OPTIONS, CompletionOptions, CompletionTask
from .constraint import constraint_of
from .fields import flag
from .pending import PendingPrompt
from .replies import ReplyRules, count_calls, last_text, pattern_of
from .rows import chat_logprobs
from .tools import ToolUse

if TYPE_CHECKING:
    from ...text.chat import ChatTemplate
    from ...text.tokenizer import Tokenizer

_RENDER_FIELDS = frozenset({"messages", "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"})
#: Fields of OpenAI's and vLLM's API that only the chat template knows what to do with.
_TEMPLATE_FIELDS = frozenset({"documents", "reasoning_effort"})
#: Names that are a column's where a template or --prompt-field makes the message.
_COLUMNS = frozenset({"documents", "messages"})
#: Chat templates of records that are kept compiled.
_OWN_TEMPLATES = 64
#: Text at the end of a prompt in which the start of a reasoning can be.
_TAIL = 1000


@dataclass(frozen=True)
class ChatOptions:
    """The options of `infer chat` alone.

    Args:
        chat_template_kwargs: variables for the chat template, where a record has no own of that name.
        tool_call_parser: name of the form in which the model calls functions; "auto": what its chat template shows; None leaves calls
            in the text.
        reasoning_parser: name of the form in which it reasons; None leaves reasoning in the text.
        trust_request_chat_template: a record may bring a chat template of its own.

    Raises ConfigError for an unknown parser, and for a variable that is a field of records.
    """

    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    trust_request_chat_template: bool = False

    def __post_init__(self) -> None:
        self.parsers("")
        for name in self.chat_template_kwargs:
            if name in _RENDER_FIELDS:
                raise ConfigError(f"chat_template_kwargs: {name} is a field of the record, not a variable of the template")

    def parsers(self, template: str) -> tuple[ToolCallParser | None, ReasoningParser | None]:
        """The parsers of these names, for a model with this chat template."""
        tool, reasoning = self.tool_call_parser, self.reasoning_parser
        if tool == AUTO:
            tool = parser_of(template)
        return None if tool is None else tool_call_parser(tool), None if reasoning is None else reasoning_parser(reasoning)


class ChatTask(CompletionTask):
    """`messages` with `tools` and what steers the chat template; `--prompt-field` or `--template` make one user message instead.

    With a parser of calls or reasoning the answer is taken apart into OpenAI's `tool_calls` and vLLM's `reasoning_content`. Calls are
    looked for where a record offers tools. A `tool_choice` that forces a call constrains the output to the JSON of one, and
    needs no parser.
    """

    command = "chat"
    columns = ("messages",)
    add_special_tokens = False  # the chat template has written them

    def __init__(
        self,
        options: CompletionOptions,
        tokenizer: Tokenizer | None,
        chat: ChatTemplate,
        *,
        max_model_len: int,
        chat_options: ChatOptions | None = None,
    ) -> None:
        super().__init__(options, tokenizer, max_model_len=max_model_len)
        chat = chat if options.now is None else chat.at(options.now)
        self._chat = chat.literally() if options.literal_special_tokens else chat
        self._chat_options = chat_options or ChatOptions()
        self._tool_calls, self._reasoning = self._chat_options.parsers(chat.source)
        if self._chat_options.tool_call_parser == AUTO and self._tool_calls is None:
            raise ConfigError(f"tool_call_parser auto: the chat template shows no form of calls; name one of {', '.join(PARSERS)}")
        self._literal = tokenizer.literal if options.literal_special_tokens and tokenizer is not None else None
        special = {} if tokenizer is None else {i: tokenizer.token_text(i) for i in tokenizer.special_ids}
        markers = {*(self._tool_calls.markers if self._tool_calls else ()), *(self._reasoning.markers if self._reasoning else ())}
        # Parsers look for tokens that would be left out of the text if they are special ones.
        texts = set(special.values())
        self._keeps_for_calls = self._tool_calls is not None and not texts.isdisjoint(self._tool_calls.markers)
        self._keeps_for_reasoning = self._reasoning is not None and not texts.isdisjoint(self._reasoning.markers)
        self._hidden = pattern_of(texts & markers)
        self._own_template = lru_cache(_OWN_TEMPLATES)(self._chat.replaced)
        self._hidden_ids = frozenset(i for i, text in special.items() if text not in markers)

    def own_fields(self) -> frozenset[str]:
        media = (MEDIA_OPTIONS | MEDIA_FIELDS if not self.options.has_column else MEDIA_OPTIONS) if self.options.placing else frozenset()
        own = super().own_fields() | media | ((_RENDER_FIELDS | _TEMPLATE_FIELDS | tools.FIELDS | {"chat_template"}) - _COLUMNS)
        return own if self.options.has_column else own | _COLUMNS

    def missing(self, fields: Mapping[str, Any]) -> str:
        return 'no "messages"'

    def prompt_of(self, fields: Mapping[str, Any]) -> str:
        column = self.text_from_record(fields)
        if column is not None and not column:
            raise RecordError("invalid_value", "the user message is empty", param=self.options.prompt_field)
        return self.conversation(self._messages(fields) if column is None else [{"role": "user", "content": column}], fields)

    def media_of(self, fields: Mapping[str, Any]) -> Sequence[MediaPart]:
        return () if self.options.has_column else of_messages(self._messages(fields))

    def _messages(self, fields: Mapping[str, Any]) -> Any:
        """The messages of a record, with the media in fields beside them. Raises RecordError."""
        messages = fields.get("messages")
        if self.options.placing is None or MEDIA_FIELDS.isdisjoint(fields):
            return messages
        return with_media(messages, of_fields({name: fields[name] for name in MEDIA_FIELDS if name in fields}))

    def conversation(self, messages: Any, fields: Mapping[str, Any]) -> str:
        """The prompt of these messages, with what else a record says of it. Raises RecordError."""
        if self.options.system is not None:
            messages = _with_system(messages, self.options.system)
        go_on = flag(fields, "continue_final_message", False)
        answer = flag(fields, "add_generation_prompt", not go_on)
        tools = ToolUse.of(fields).tools
        variables = {**self._chat_options.chat_template_kwargs, **self._template_kwargs(fields)}
        options = {"tools": tools, "add_generation_prompt": answer, "continue_final_message": go_on}
        return self.intake.render(self._template_of(fields), messages, options, variables)

    def _template_of(self, fields: Mapping[str, Any]) -> ChatTemplate:
        """The template of a record, its own if it may have one. Raises RecordError."""
        own = fields.get("chat_template")
        if own is None:
            return self._chat
        if not self._chat_options.trust_request_chat_template:
            message = "a record's own chat_template is used with --trust-request-chat-template alone"
            raise RecordError("unsupported", message, param="chat_template")
        if not isinstance(own, str):
            raise wrong_type("chat_template", "a string", own)
        return self._own_template(own)

    def fills_context(self, pending: PendingPrompt) -> bool:
        """So OpenAI's and vLLM's servers answer a conversation: the one form that Batch lines have is theirs."""
        return pending.batch is not None and not self.options.max_tokens_known

    def _template_kwargs(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The variables a record has for the chat template. Raises RecordError."""
        found = {name: fields[name] for name in _TEMPLATE_FIELDS & self.fields if fields.get(name) is not None}
        kwargs = fields.get("chat_template_kwargs")
        if kwargs is None:
            return found
        if not isinstance(kwargs, dict):
            raise wrong_type("chat_template_kwargs", "an object", kwargs)
        for name in kwargs:
            if name in _RENDER_FIELDS:
                raise RecordError("invalid_value", f"{name} belongs on the line itself", param="chat_template_kwargs")
        return {**found, **kwargs}

    def look_ahead(self, pending: PendingPrompt, fields: Mapping[str, Any]) -> None:
        use = ToolUse.of(fields)
        if use.tools is None and self._reasoning is None:
            return
        assert pending.params is not None
        changes: dict[str, Any] = {}
        if use.forced:
            if constraint_of(fields)[0]:
                message = "tool_choice forces a call, and another field constrains the output: give one"
                raise RecordError("invalid_value", message, param="tool_choice")
            changes["structured_outputs"] = use.constraint()
        # Of a constrained output all is content: it begins with what it is held to, not with reasoning.
        constrained = use.forced or pending.params.structured_outputs is not None
        reasoning = None if constrained else self._reasoning
        calls = self._tool_calls if use.tools is not None else None
        keep = (calls is not None and self._keeps_for_calls) or (reasoning is not None and self._keeps_for_reasoning)
        hide = keep and pending.params.skip_special_tokens
        if hide:
            changes["skip_special_tokens"] = False
        if changes:
            pending.params = pending.params.override(changes)
        messages = fields.get("messages")
        pending.reply = ReplyRules(
            pending.index,
            use,
            tool_calls=calls,
            reasoning=reasoning,
            inside=None if reasoning is None else self._inside(reasoning, pending.prompt, fields),
            first_call=count_calls(messages),
            hidden=self._hidden if hide else None,
        )

    def _inside(self, reasoning: ReasoningParser, prompt: str | list[int] | None, fields: Mapping[str, Any]) -> bool | None:
        """True if a record's prompt leaves the output inside its reasoning."""
        if not isinstance(prompt, str):
            return None
        if fields.get("continue_final_message"):
            return reasoning.left_open(last_text(fields.get("messages")))
        tail = prompt[-_TAIL:]
        return reasoning.opened_by(tail if self._literal is None else self._literal.plain(tail))

    def sampling_of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """OpenAI's chat form of logprobs, `logprobs: true, top_logprobs: 5`, becomes `logprobs: 5`."""
        given = super().sampling_of(fields)
        top = given.pop("top_logprobs", None)
        if given.get("logprobs") is True:
            given["logprobs"] = 0 if top is None else top
            if type(given["logprobs"]) is not int:
                raise wrong_type("top_logprobs", "an integer", top)
        elif top is not None:
            raise RecordError("invalid_value", "top_logprobs needs logprobs: true", param="top_logprobs")
        return given

    def choice_text(self, choice: CompletionOutput, pending: PendingPrompt, prompt_ids: Sequence[int]) -> dict[str, Any]:
        rules: ReplyRules | None = pending.reply
        if rules is None:
            return {"message": {"role": "assistant", "content": choice.text}}
        text = choice.text
        if rules.hidden is not None and text:
            assert pending.params is not None
            text = self.spelling(choice, pending.params, prompt_ids).without(self._hidden_ids)
        message = rules.message(choice, text)
        choice.finish_reason = rules.finish_reason(choice, message)  # set there, so that the summary counts what the row says
        return {"message": message}

    def empty_choice(self) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": ""}}

    def choice_logprobs(self, choice: CompletionOutput, num_logprobs: int, spelling: Spelling) -> dict[str, Any]:
        return chat_logprobs(choice, num_logprobs, spelling)


def _with_system(messages: Any, system: str) -> Any:
    """`messages` with a system message in front, unless there is one. What is no list of messages stays as it is."""
    if not isinstance(messages, list) or not messages:
        return messages
    if any(isinstance(m, dict) and m.get("role") in ("system", "developer") for m in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]
