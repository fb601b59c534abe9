"""Calls written in tags, one for each argument: texts stand there as they are, and other values as JSON.

    <tool_call>                     block
    <function=weather>              call
    <parameter=city>                argument
    Paris
    </parameter>                    argument_end
    </function>                     call_end
    </tool_call>

A text may hold what looks like a tag: an argument ends only at a tag behind which another argument of the function begins, or the call
ends. Whether `5` is a text or a number, the function's schema says; where it says nothing, JSON is JSON.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..json_spans import MOST_MISSES, after_space, loads, value_at
from .parser import Signatures
from .tool_call import NO_CALL, Parts, ToolCall, made

#: Longer Python text is not parsed: its syntax tree takes many times the memory.
_LONGEST = 100_000


@dataclass(frozen=True)
class Tags:
    """Takes such a text apart.

    Args:
        block: around one call or several; may be left out.
        call: begins a call; its group `name` is the function's.
        argument: begins an argument; its group `name` is the argument's.
        lines: a value stands on lines of its own, whose ends are none of it.
    """

    block: tuple[str, str] | None
    call: re.Pattern[str]
    call_end: str
    argument: re.Pattern[str]
    argument_end: str
    lines: bool = True

    def __call__(self, text: str, signatures: Signatures) -> Parts:
        done = at = misses = 0
        while misses < MOST_MISSES and (match := self.call.search(text, at)):
            at = match.end()
            name = match["name"].strip()
            try:
                call, end = self._call(text, at, name, signatures.get(name))
            except NO_CALL:
                misses += 1
                continue
            yield self._before(text[done : match.start()])
            yield call
            done = at = self._behind(text, end)
        yield text[done:]

    def _before(self, text: str) -> str:
        """The text before a call, without the beginning of its block."""
        if self.block is not None and text.rstrip().endswith(self.block[0]):
            return text.rstrip().removesuffix(self.block[0])
        return text

    def _behind(self, text: str, at: int) -> int:
        """The place behind a call, and behind the end of its block where that comes next."""
        end = after_space(text, at)
        return end + len(self.block[1]) if self.block is not None and text.startswith(self.block[1], end) else at

    def _call(self, text: str, at: int, name: str, schemas: Mapping[str, Any] | None) -> tuple[ToolCall, int]:
        if text.startswith("{", at := after_space(text, at)):  # all in one: Llama 3.1's own calls, and Functionary's
            value, end = value_at(text, at)
            if not text.startswith(self.call_end, end := after_space(text, end)):
                raise ValueError
            return made(name, value), end + len(self.call_end)
        arguments: dict[str, Any] = {}
        while not text.startswith(self.call_end, at := after_space(text, at)):
            match = self.argument.match(text, at)
            if match is None:
                raise ValueError
            end = self._end(text, match.end(), schemas)
            key = match["name"].strip()
            arguments[key] = self._value(text[match.end() : end], None if schemas is None else schemas.get(key))
            at = end + len(self.argument_end)
        return made(name, arguments), at + len(self.call_end)

    def _end(self, text: str, start: int, schemas: Mapping[str, Any] | None) -> int:
        """The end of the value that begins at `start`. Raises ValueError."""
        at, misses = start, 0
        while misses < MOST_MISSES and (place := text.find(self.argument_end, at)) >= 0:
            at = after_space(text, place + len(self.argument_end))
            if text.startswith(self.call_end, at):
                return place
            match = self.argument.match(text, at)
            if match is not None and (schemas is None or match["name"].strip() in schemas):
                return place
            misses += 1
        raise ValueError

    def _value(self, text: str, schema: Any) -> Any:
        if self.lines:
            text = text.removeprefix("\n").removesuffix("\n")
        kinds = _kinds(schema)
        if kinds == {"string"}:
            return text
        try:
            value = loads(text)
        except NO_CALL:
            return text if not kinds or "string" in kinds else _printed(text, kinds)
        if isinstance(value, str) or ("string" in kinds and _kind(value) not in kinds):
            return text
        return value


def _kinds(schema: Any) -> set[str]:
    """The types that a schema allows, as far as it says so; an optional argument is `anyOf` its type and null."""
    if not isinstance(schema, dict):
        return set()
    given = schema.get("type")
    kinds = {given} if isinstance(given, str) else {kind for kind in given if isinstance(kind, str)} if isinstance(given, list) else set()
    for name in ("anyOf", "oneOf"):
        branches = schema.get(name)
        if not kinds and isinstance(branches, list):
            found = [_kinds(branch) for branch in branches]
            kinds = set().union(*found) if all(found) else set()
    return kinds | ({"integer"} if "number" in kinds else set())


def _printed(text: str, kinds: set[str]) -> Any:
    """A value of one of these types as templates print it that make no JSON of it: True, None, ['a']. Else the text."""
    if len(text) > _LONGEST:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd backslashes
            value = ast.literal_eval(text.strip())
        return value if _kind(value) in kinds and loads(json.dumps(value)) == value else text
    except (*NO_CALL, KeyError, TypeError):  # bytes, sets, tuples
        return text


def _kind(value: Any) -> str:
    """The name that JSON schemas have for it."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "boolean"
    return {int: "integer", float: "number", list: "array", dict: "object"}[type(value)]
