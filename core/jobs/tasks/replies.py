"""Answers to conversations as messages: their reasoning, their calls, and the text that is left."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...text.calls.forced import parse_forced
from ...text.calls.parser import ToolCallParser, call_id
from ...text.reasoning import ReasoningParser
from ...types.outputs import CompletionOutput
from .tools import ToolUse


@dataclass(frozen=True)
class ReplyRules:
    """The parts to be read out of one record's choices. Reading never fails: what does not parse is text.

    Args:
        index: of the record.
        use: the functions it offers.
        tool_calls: reads calls; None: none were offered, or nobody asked.
        reasoning: splits it off; None: nobody asked, or the output is constrained to something else.
        inside: whether the prompt left the output inside its reasoning, see `ReasoningParser.opened_by`.
        first_call: number of the calls made earlier in the conversation.
        hidden: markers of the parsers that are special tokens, and are left out of what they leave.
    """

    index: int
    use: ToolUse
    tool_calls: ToolCallParser | None = None
    reasoning: ReasoningParser | None = None
    inside: bool | None = None
    first_call: int = 0
    hidden: re.Pattern[str] | None = None

    def message(self, choice: CompletionOutput, text: str | None) -> dict[str, Any]:
        """The message of a choice with this text: role, content (null where there is none), and tool_calls and reasoning_content if
        it has them."""
        reasoning, content = None, None
        if self.reasoning is not None and text is not None:
            reasoning, text = self.reasoning.split(text, inside=self.inside)
        reply = None
        if text is not None and self.use.forced:
            reply = parse_forced(text, self.use.name)
        elif text is not None and self.tool_calls is not None:
            reply = self.tool_calls.parse(text, self.use.tools)
        content = reply.content if reply is not None else text
        message: dict[str, Any] = {"role": "assistant", "content": self._shown(content)}
        if reply is not None and reply.calls:
            if not (message["content"] or "").strip():  # around the calls there were special tokens only
                message["content"] = None
            calls = reply.calls if self.use.parallel else reply.calls[:1]
            message["tool_calls"] = [call.to_json(self._id(choice.index, i, call.name)) for i, call in enumerate(calls)]
        if reasoning is not None:
            message["reasoning_content"] = self._shown(reasoning)
        return message

    def finish_reason(self, choice: CompletionOutput, message: dict[str, Any]) -> str | None:
        """ "tool_calls" for an output that ended by itself and holds calls, as in OpenAI's API; one that was told which function to
        call has only done as told. An output cut short still says so, whatever it holds.
        """
        called = "tool_calls" in message and self.use.name is None
        return "tool_calls" if called and choice.finish_reason == "stop" else choice.finish_reason

    def _id(self, choice: int, number: int, name: str) -> str:
        number += self.first_call
        if self.tool_calls is None:
            return call_id(self.index, choice, number)
        return self.tool_calls.call_id(self.index, choice, number, name)

    def _shown(self, text: str | None) -> str | None:
        return text if text is None or self.hidden is None else self.hidden.sub("", text)


def pattern_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the texts, the longest where several do."""
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True) if text) or "(?!)")


def count_calls(messages: Any) -> int:
    """The number of calls in a conversation."""
    held = [m.get("tool_calls") for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    return sum(len(calls) for calls in held if isinstance(calls, list))


def last_text(messages: Any) -> str:
    """The text of the last message, its last part if it has parts."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    if isinstance(content, list) and content:
        content = content[-1].get("text") if isinstance(content[-1], dict) else content[-1]
    return content if isinstance(content, str) else ""
