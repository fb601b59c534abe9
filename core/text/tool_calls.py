"""Tool-call parsers: read the function calls in a model's answer.

Plain text in, plain data out; no text makes them raise.

Models write calls in the form of their own chat template, so each form has a parser of the name vLLM gives it. What does
not parse as that form is no call: it stays text, so that nothing a model wrote is lost, and the calls beside it stay calls.
Where a call ends is found by reading its JSON, never by looking for a delimiter that a string in it may hold.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..errors import ConfigError, nearest
from .json_spans import MOST_MISSES, after_broken, after_space, loads, value_at
from .pythonic import PYTHON_END, PYTHON_START, pythonic
from .tool_call import NO_CALL, Parts, ToolCall, call_or, from_object, made


@dataclass(frozen=True)
class Reply:
    """An answer taken apart: the text before, between and after the calls (None where there is none) and the calls, in order."""

    content: str | None
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class ToolCallParser:
    """One form of writing calls.

    Args:
        read: takes a text apart.
        markers: what such a text may contain as special tokens, which must not be left out of it.
        separators: characters that between calls mean nothing.
        dropped: a marker that is no part of the text around calls.
        short_ids: ids of calls are nine letters or digits, as Mistral's templates want them.
    """

    read: Callable[[str], Parts]
    markers: tuple[str, ...] = ()
    separators: str = ""
    dropped: str = ""
    short_ids: bool = False

    def parse(self, text: str) -> Reply:
        """The calls in an output and the text beside them; without a (whole, well-formed) call the text is all content."""
        parts = list(self.read(text))
        calls = tuple(part for part in parts if isinstance(part, ToolCall))
        if not calls:
            return Reply(text)
        texts = [part.replace(self.dropped, "") if self.dropped else part for part in parts if isinstance(part, str)]
        return Reply("".join([t for t in texts if t.strip().strip(self.separators).strip()]) or None, calls)

    def call_id(self, index: int, choice: int, number: int) -> str:
        """The id of a call: of its record, its choice, and its number in the conversation. The same in every run."""
        if self.short_ids:
            return hashlib.blake2b(f"{index} {choice} {number}".encode(), digest_size=5).hexdigest()[:9]
        return call_id(index, choice, number)


def call_id(index: int, choice: int, number: int) -> str:
    """The id of call `number` of the conversation, made by choice `choice` of record `index`."""
    return f"call_{index}_{choice}_{number}"


def tool_call_parser(name: str) -> ToolCallParser:
    """The parser of that name. Raises ConfigError naming those there are."""
    if name not in PARSERS:
        raise ConfigError(f"unknown tool-call parser {name!r}{nearest(name, PARSERS)}; available: {', '.join(PARSERS)}")
    return PARSERS[name]


def parse_forced(text: str, name: str | None) -> Reply:
    """The calls in the output of a forced choice: `name`'s arguments, or (None) a list of {name, parameters}.

    What of an output was cut off, and so is not JSON, is content.
    """
    if name is None:
        return _FORCED.parse(text)
    try:
        return Reply(None, (from_object({"name": name, "arguments": loads(text)}),))
    except NO_CALL:
        return Reply(text)


# --- JSON


def _list_at(text: str, start: int) -> tuple[list[str | ToolCall], int]:
    """The items of the JSON list that begins at `start`, and where it ends or cannot be read any further."""
    items: list[str | ToolCall] = []
    at = after_space(text, start + 1)
    while at < len(text) and text[at] != "]":
        try:
            value, end = value_at(text, at)
        except (ValueError, RecursionError) as error:
            end = after_broken(text, at, error)
            if text[at] not in "[{" or text[end - 1] not in "]}":
                return items, at
            value = None
        items.append(call_or(text[at:end], from_object, value))
        at = after_space(text, end)
        if text[at : at + 1] == ",":
            at = after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            return items, at
    return items, min(at + 1, len(text))


# --- the forms

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
#: The end of a call and the beginning of the next.
_BETWEEN = re.compile(r"</tool_call>\s*(?=<tool_call>)")


def _hermes(text: str) -> Parts:
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number of them; the last need not be closed (Qwen, Hermes)."""
    done = at = misses = 0
    while misses < MOST_MISSES and (opening := text.find(_OPEN, at)) >= 0:
        start = at = after_space(text, opening + len(_OPEN))
        try:
            value, at = value_at(text, start)
            call = from_object(value)
        except NO_CALL as error:
            if at == start and text.startswith(("{", "["), start):
                at = after_broken(text, start, error)
                between = _BETWEEN.search(text, start, at)  # brackets that do not match must not take the next call with them
                at = between.end() if between else at
            misses += 1
            continue
        end = after_space(text, at)
        if text.startswith(_CLOSE, end):
            at = end + len(_CLOSE)
        elif end < len(text) and not text.startswith(_OPEN, end):
            continue
        yield text[done:opening]
        yield call
        done = at
    yield text[done:]


_PYTHON_TAG = "<|python_tag|>"


def _llama3_json(text: str) -> Parts:
    """JSON objects with `name` and `parameters`, wherever they stand; they may be items of a list, or have semicolons between them."""
    done = at = misses = 0
    while misses < MOST_MISSES and (start := text.find("{", at)) >= 0:
        try:
            value, at = value_at(text, start)
        except (ValueError, RecursionError) as error:
            at = after_broken(text, start, error)
            misses += 1
            continue
        try:
            call = from_object(value)
        except NO_CALL:
            continue
        yield text[done:start]
        yield call
        done = at
    yield text[done:]


_MISTRAL = "[TOOL_CALLS]"
_MISTRAL_NAME = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\][\w-]*)?(?:\[ARGS\])?\s*(?=\{)")


def _mistral(text: str) -> Parts:
    """`[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, or `[TOOL_CALLS]name{…}` and `[TOOL_CALLS]name[ARGS]{…}`, repeated."""
    done = at = misses = 0
    while misses < MOST_MISSES and (marker := text.find(_MISTRAL, at)) >= 0:
        at = marker + len(_MISTRAL)
        items, end = _mistral_items(text, after_space(text, at))
        if not any(isinstance(item, ToolCall) for item in items):
            misses += 1
            continue
        yield text[done:marker]
        yield from items
        done = at = end
    yield text[done:]


def _mistral_items(text: str, start: int) -> tuple[list[str | ToolCall], int]:
    """The calls and texts behind a marker, and the place where they end."""
    if text.startswith("[", start):
        return _list_at(text, start)
    items: list[str | ToolCall] = []
    at = start
    while True:
        match = None if text.startswith("{", at) else _MISTRAL_NAME.match(text, at)
        begins = match.end() if match is not None else at
        if not text.startswith("{", begins):
            return items, at
        try:
            value, end = value_at(text, begins)
        except (ValueError, RecursionError) as error:
            end = after_broken(text, begins, error)
            if text[end - 1] != "}":
                return items, at
            value = None
        if match is None:
            items.append(call_or(text[at:end], from_object, value))
        else:
            items.append(call_or(text[at:end], made, match.group(1), value))
        at = end
        if match is None:
            return items, at


def _forced(text: str) -> Parts:
    """A JSON list of calls and nothing else; an output that was cut off ends in the midst of it."""
    start = after_space(text, 0)
    items, end = _list_at(text, start) if text.startswith("[", start) else ([], 0)
    yield from items
    yield text[end:]


_FORCED = ToolCallParser(_forced)
_LLAMA3 = ToolCallParser(_llama3_json, (_PYTHON_TAG,), separators=";,[]", dropped=_PYTHON_TAG)

PARSERS: Mapping[str, ToolCallParser] = {
    "hermes": ToolCallParser(_hermes, (_OPEN, _CLOSE)),
    "llama3_json": _LLAMA3,
    "llama4_json": _LLAMA3,
    "mistral": ToolCallParser(_mistral, (_MISTRAL, "[ARGS]", "[CALL_ID]"), short_ids=True),
    "pythonic": ToolCallParser(pythonic, (PYTHON_START, PYTHON_END)),
}
