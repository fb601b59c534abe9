"""Calls of Gemma 4: <|tool_call>call:NAME{key:<|"|>text<|"|>,other:5}<tool_call|>, as its prompt format says.

Keys stand bare, texts between <|"|> tokens, numbers, true, false and null as in JSON; lists and objects nest.
"""

from __future__ import annotations

import re
from typing import Any

from ..json_spans import MOST_MISSES, after_space, loads
from .parser import ToolCallParser
from .tool_call import NO_CALL, Parts, made

_OPENING = re.compile(r"<\|tool_call>\s*call:(?P<name>[^\s{<]+)\s*(?=\{)")
OPEN, _CLOSING = "<|tool_call>", "<tool_call|>"
_QUOTE = '<|"|>'
_KEY = re.compile(r"\s*([^\s:{},<>\[\]]+)\s*:")
_BARE = re.compile(r"[^,\[\]{}<]+")
#: Values in values.
_DEEPEST = 64


def _gemma4(text: str) -> Parts:
    done = at = misses = 0
    while misses < MOST_MISSES and (match := _OPENING.search(text, at)):
        at = match.end()
        try:
            value, end = _value(text, at, 0)
            call = made(match["name"], value)
            end = after_space(text, end)
            if end < len(text) and not text.startswith((_CLOSING, OPEN), end):
                raise ValueError
        except NO_CALL:
            misses += 1
            continue
        yield text[done : match.start()]
        yield call
        done = at = end + len(_CLOSING) if text.startswith(_CLOSING, end) else end
    yield text[done:]


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """The value that begins at a place, and where it ends. Raises ValueError."""
    at = after_space(text, at)
    if depth > _DEEPEST:
        raise ValueError
    if text.startswith(_QUOTE, at):
        end = text.index(_QUOTE, at + len(_QUOTE))
        return text[at + len(_QUOTE) : end], end + len(_QUOTE)
    if text.startswith("{", at):
        return _object(text, at, depth)
    if text.startswith("[", at):
        return _list(text, at, depth)
    match = _BARE.match(text, at)
    if match is None:
        raise ValueError
    return loads(match.group().strip()), match.end()


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    at = after_space(text, at + 1)
    while not text.startswith("}", at):
        if text.startswith(_QUOTE, at):
            key, at = _value(text, at, depth)
            at = text.index(":", at) + 1
        elif (match := _KEY.match(text, at)) is not None:
            key, at = match.group(1), match.end()
        else:
            raise ValueError
        found[key], at = _value(text, at, depth + 1)
        at = _after_item(text, at, "}")
    return found, at + 1


def _list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    at = after_space(text, at + 1)
    while not text.startswith("]", at):
        value, at = _value(text, at, depth + 1)
        found.append(value)
        at = _after_item(text, at, "]")
    return found, at + 1


def _after_item(text: str, at: int, closing: str) -> int:
    at = after_space(text, at)
    if text.startswith(",", at):
        return after_space(text, at + 1)
    if not text.startswith(closing, at):
        raise ValueError
    return at


PARSER = ToolCallParser(_gemma4, (OPEN, _CLOSING, _QUOTE))
