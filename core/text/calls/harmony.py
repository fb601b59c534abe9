"""OpenAI's harmony form, of gpt-oss: messages in channels, some of them to a function.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>
    <|channel|>final<|message|>…<|return|>

The form is told in the model's own documentation (openai/harmony).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..json_spans import MOST_MISSES, after_space, value_at
from .parser import ToolCallParser
from .tool_call import NO_CALL, Parts, made

MARKERS = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>")
_HEADER = re.compile(
    r"(?:(?:<\|start\|>\w*|\A)(?P<before>\s*to=[^<]*|))?<\|channel\|>(?P<channel>\w+)(?!\w)(?P<after>(?:[^<]|<\|constrain\|>)*)<\|message\|>"
)
_RECIPIENT = re.compile(r"to=([\w.$-]+)")
_END = re.compile(r"<\|(?:end|call|return)\|>|(?=<\|start\|>)|\Z")


@dataclass(frozen=True)
class Message:
    """One message of an output, which lies from `start` to `end` of the text."""

    channel: str
    recipient: str | None
    content: str
    start: int
    end: int

    @property
    def function(self) -> str | None:
        """The function that it calls, if it is a call."""
        return self.recipient.removeprefix("functions.") if self.recipient and self.recipient.startswith("functions.") else None


def messages(text: str) -> Iterator[Message]:
    """The messages of an output, in order; what stands between them is none. The JSON of a call may hold what ends a message."""
    at = misses = 0
    while misses < MOST_MISSES and (header := _HEADER.search(text, at)):
        recipient = _RECIPIENT.search(header["before"] or "") or _RECIPIENT.search(header["after"])
        begins = ends = header.end()
        if recipient is not None:
            try:
                _, ends = value_at(text, after_space(text, begins))
            except NO_CALL:
                misses += 1
        end = _END.search(text, ends)
        assert end is not None, "the end of the text at least"
        name = recipient.group(1) if recipient is not None else None
        yield Message(header["channel"], name, text[begins : end.start()], header.start(), end.end())
        at = end.end()


def _openai(text: str) -> Parts:
    done = 0
    for message in messages(text):
        yield text[done : message.start]
        done = message.end
        if message.function is None:
            yield message.content
            continue
        try:
            yield made(message.function, message.content)
        except NO_CALL:
            yield text[message.start : message.end]
    yield text[done:]


PARSER = ToolCallParser(_openai, MARKERS)
