"""ToolCallParser: one form in which models write function calls, and what is read of it.

Plain text in, plain data out; no text makes it raise.

Models write calls in the form of their own chat template, so each form has a parser of the name vLLM gives it. What does
not parse as that form is no call: it stays text, so that nothing a model wrote is lost, and the calls beside it stay calls.
Where a call ends is found by reading its values, never by looking for a delimiter that a string in it may hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .tool_call import Parts, ToolCall

#: Name of a function -> name of an argument -> its JSON schema, as far as a record's tools say.
Signatures = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Reply:
    """An answer taken apart: the text before, between and after the calls (None where there is none) and the calls, in order."""

    content: str | None
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class ToolCallParser:
    """One form of writing calls.

    Args:
        read: takes a text apart; None where `read_typed` does.
        markers: what such a text may contain as special tokens, which must not be left out of it.
        separators: characters that between calls mean nothing.
        dropped: markers that are no part of the text around calls.
        read_typed: takes a text apart in which only a function's schema tells the text "5" from the number.
        short_ids: ids of calls are nine letters or digits, as Mistral's templates want them.
        named_ids: ids are functions.NAME:NUMBER, as Kimi's want them.
    """

    read: Callable[[str], Parts] | None
    markers: tuple[str, ...] = ()
    separators: str = ""
    dropped: tuple[str, ...] = ()
    read_typed: Callable[[str, Signatures], Parts] | None = None
    short_ids: bool = False
    named_ids: bool = False

    def parse(self, text: str, tools: Sequence[Any] | None = None) -> Reply:
        """The calls in an output and the text beside them; without a (whole, well-formed) call the text is all content.

        Args:
            tools: the functions that the record offers, as OpenAI's API has them.
        """
        parts = list(self.read(text) if self.read is not None else self.read_typed(text, _signatures(tools)) if self.read_typed else [text])
        calls = tuple(part for part in parts if isinstance(part, ToolCall))
        if not calls:
            return Reply(text)
        texts = [part for part in parts if isinstance(part, str)]
        for marker in self.dropped:
            texts = [part.replace(marker, "") for part in texts]
        return Reply("".join([t for t in texts if t.strip().strip(self.separators).strip()]) or None, calls)

    def call_id(self, index: int, choice: int, number: int, name: str = "") -> str:
        """The id of a call: of its record, its choice, its number in the conversation and its function. The same in every run."""
        if self.short_ids:
            return hashlib.blake2b(f"{index} {choice} {number}".encode(), digest_size=5).hexdigest()[:9]
        return f"functions.{name}:{number}" if self.named_ids else call_id(index, choice, number)


def call_id(index: int, choice: int, number: int) -> str:
    """The id of call `number` of the conversation, made by choice `choice` of record `index`."""
    return f"call_{index}_{choice}_{number}"


def _signatures(tools: Sequence[Any] | None) -> Signatures:
    """What tools say of their arguments; a template may take tools of any form, so what is not as expected says nothing."""
    found: dict[str, Mapping[str, Any]] = {}
    for tool in tools or ():
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        parameters = function.get("parameters") if isinstance(function, dict) else None
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        if isinstance(name, str) and isinstance(properties, dict):
            found[name] = properties
    return found
