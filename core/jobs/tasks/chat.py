"""`infer chat`: a conversation in, the next message out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import RecordError
from ...outputs import CompletionOutput
from ..jsonl import json_type
from .base import Task, TaskOptions
from .rows import chat_logprobs

if TYPE_CHECKING:
    from ...text.chat import ChatTemplate
    from ...text.tokenizer import Tokenizer

_RENDER_FIELDS = frozenset({"messages", "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"})
_TOOL_CHOICES = (None, "auto", "none")


class ChatTask(Task):
    """`messages` with `tools` and what steers the chat template; `--prompt-field` or `--template` make one user message instead."""

    command = "chat"
    add_special_tokens = False  # the chat template has written them

    def __init__(self, options: TaskOptions, tokenizer: Tokenizer | None, chat: ChatTemplate, *, max_model_len: int) -> None:
        super().__init__(options, tokenizer, max_model_len=max_model_len)
        self._chat = chat

    def own_fields(self) -> frozenset[str]:
        own = _RENDER_FIELDS | {"tool_choice"}
        if self.options.template is not None:
            return own - {"messages"}
        if self.options.prompt_field is not None:
            return (own - {"messages"}) | {self.options.prompt_field}
        return own

    def check_ours(self, fields: Mapping[str, Any]) -> None:
        if fields.get("beam_width") is not None:
            raise RecordError("unsupported", "a line with beam_width belongs to infer beam", param="beam_width")
        if self.check_column(fields) or fields.get("messages") is not None:
            return
        for name in ("prompt", "prompt_token_ids"):
            if name in fields:
                hint = " (or give --prompt-field prompt)" if name == "prompt" else ""
                raise RecordError("unsupported", f"a line with {name} belongs to infer generate{hint}", param=name)
        if "input" in fields:
            raise RecordError("unsupported", "a line with input belongs to infer embed (or give --prompt-field input)", param="input")
        raise RecordError("missing_field", 'no "messages"', param="messages")

    def prompt_of(self, fields: Mapping[str, Any]) -> str:
        text = self.text_from_record(fields)
        if text is not None and not text:
            raise RecordError("invalid_value", "the user message is empty", param=self.options.prompt_field)
        messages = fields["messages"] if text is None else [{"role": "user", "content": text}]
        if self.options.system is not None:
            messages = _with_system(messages, self.options.system)
        go_on = _flag(fields, "continue_final_message", False)
        answer = _flag(fields, "add_generation_prompt", not go_on)
        return self._chat.render(
            messages, tools=_tools(fields), add_generation_prompt=answer, continue_final_message=go_on, **_template_kwargs(fields)
        )

    def sampling_of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """OpenAI's chat form of logprobs, `logprobs: true, top_logprobs: 5`, becomes `logprobs: 5`."""
        given = super().sampling_of(fields)
        top = given.pop("top_logprobs", None)
        if given.get("logprobs") is True:
            given["logprobs"] = 0 if top is None else top
            if type(given["logprobs"]) is not int:
                raise RecordError("invalid_type", f"top_logprobs must be an integer, not {json_type(top)}", param="top_logprobs")
        elif top is not None:
            raise RecordError("invalid_value", "top_logprobs needs logprobs: true", param="top_logprobs")
        return given

    def choice_text(self, choice: CompletionOutput) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": choice.text}}

    def choice_logprobs(self, choice: CompletionOutput, num_logprobs: int) -> dict[str, Any]:
        return chat_logprobs(choice, num_logprobs, self.token_text)


def _with_system(messages: Any, system: str) -> Any:
    """`messages` with a system message in front, unless there is one. What is no list of messages stays as it is."""
    if not isinstance(messages, list) or not messages:
        return messages
    if any(isinstance(m, dict) and m.get("role") in ("system", "developer") for m in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _tools(fields: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    tools = fields.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise RecordError("invalid_type", "tools must be a list of objects", param="tools")
    choice = fields.get("tool_choice")
    if choice not in _TOOL_CHOICES:
        raise RecordError("unsupported", "tool_choice is not supported except auto and none", param="tool_choice")
    return tools if tools and choice != "none" else None


def _template_kwargs(fields: Mapping[str, Any]) -> dict[str, Any]:
    kwargs = fields.get("chat_template_kwargs")
    if kwargs is None:
        return {}
    if not isinstance(kwargs, dict):
        raise RecordError("invalid_type", f"chat_template_kwargs must be an object, not {json_type(kwargs)}", param="chat_template_kwargs")
    for name in kwargs:
        if name in _RENDER_FIELDS:
            raise RecordError("invalid_value", f"{name} belongs on the line itself", param="chat_template_kwargs")
    return kwargs


def _flag(fields: Mapping[str, Any], name: str, default: bool) -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RecordError("invalid_type", f"{name} must be true or false, not {json_type(value)}", param=name)
    return value
