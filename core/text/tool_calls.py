"""Reads the function calls a model wrote into its answer. Plain text in, plain data out; nothing here ever raises for a text.

Models write calls in the form of their own chat template, so each form has a parser of the name vLLM gives it. What does
not parse as that form is no call: it stays text, all of it, so that nothing a model wrote is lost.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, nearest

#: Braces that begin no JSON before a text is taken for something else: each costs a look at all that follows.
_MOST_MISSES = 256
#: Longer Python text is not parsed: its syntax tree takes many times the memory.
_LONGEST_PYTHON = 100_000


@dataclass(frozen=True)
class ToolCall:
    """One call: the function's name, and its arguments as the text of a JSON object."""

    name: str
    arguments: str

    def to_json(self, id: str) -> dict[str, Any]:
        """An entry of OpenAI's `tool_calls`."""
        return {"id": id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class Reply:
    """An answer taken apart: the text around the calls (None where there is none) and the calls, in order."""

    content: str | None
    calls: tuple[ToolCall, ...] = ()


class NotACallError(ValueError):
    """The text is not what it was parsed as."""


@dataclass(frozen=True)
class ToolCallParser:
    """One form of writing calls.

    Args:
        read: the reply in a text. Raises NotACallError, RecursionError, or ValueError.
        markers: what such a text may contain as special tokens, which must not be left out of it.
        short_ids: ids of calls are nine letters or digits, as Mistral's templates want them.
    """

    read: Callable[[str], Reply]
    markers: tuple[str, ...] = ()
    short_ids: bool = False

    def parse(self, text: str) -> Reply:
        """The calls in an output and the text beside them; without a (whole, well-formed) call the text is all content."""
        try:
            reply = self.read(text)
        except (ValueError, RecursionError, MemoryError, SyntaxError):  # JSON's and Python's errors, ours
            return Reply(text)
        return reply if reply.calls else Reply(text)

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

    An output that was cut off, and so is not JSON, is all content.
    """
    try:
        value = _loads(text)
        if name is not None:
            return Reply(None, (_call({"name": name, "arguments": value}),))
        if not isinstance(value, list):
            raise NotACallError
        return Reply(None, tuple(map(_call, value)))
    except (ValueError, RecursionError):
        return Reply(text)


# --- JSON


def _refuse_constant(name: str) -> Any:
    raise NotACallError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # NaN and Infinity are not JSON


def _loads(text: str) -> Any:
    return _DECODER.decode(text)


def _call(value: Any) -> ToolCall:
    """A call from the object that is one: a name, and `arguments` or `parameters`, an object or the text of one."""
    if not isinstance(value, dict):
        raise NotACallError
    return _tool_call(value.get("name"), value["arguments"] if "arguments" in value else value.get("parameters"))


def _tool_call(name: Any, arguments: Any) -> ToolCall:
    if isinstance(arguments, str):
        arguments = _loads(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise NotACallError
    name.encode()  # half a surrogate pair, escaped, cannot be written: a UnicodeEncodeError is a ValueError
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(arguments, allow_nan=False)
    return ToolCall(name, text)


def _content(text: str) -> str | None:
    return text if text.strip() else None


# --- the forms

_HERMES = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


def _hermes(text: str) -> Reply:
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number of them; the last need not be closed (Qwen, Hermes)."""
    calls = tuple(_call(_loads(match.group(1).strip())) for match in _HERMES.finditer(text))
    return Reply(_content(text[: text.find("<tool_call>")]), calls) if calls else Reply(text)


_PYTHON_TAG = "<|python_tag|>"


def _llama3_json(text: str) -> Reply:
    """JSON objects with `name` and `parameters`, wherever they stand; what else is an object, or between calls, is passed over.

    The text before the first call is content.
    """
    calls: list[ToolCall] = []
    first = at = misses = 0
    while misses < _MOST_MISSES and (start := text.find("{", at)) >= 0:
        try:
            value, at = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            at = start + 1
            misses += 1
            continue
        with contextlib.suppress(ValueError, RecursionError):
            call = _call(value)
            first = first if calls else start
            calls.append(call)
    return Reply(_content(text[:first].replace(_PYTHON_TAG, "")), tuple(calls))


_MISTRAL = "[TOOL_CALLS]"
_MISTRAL_NAME = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\][\w-]*)?(?:\[ARGS\])?\s*(?=\{)")


def _mistral(text: str) -> Reply:
    """`[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, or `[TOOL_CALLS]name{…}` and `[TOOL_CALLS]name[ARGS]{…}`, repeated."""
    content, marker, rest = text.partition(_MISTRAL)
    if not marker:
        return Reply(text)
    calls: list[ToolCall] = []
    for part in rest.split(_MISTRAL):
        stripped = part.strip()
        if stripped.startswith(("[", "{")):
            values = _loads(stripped)
            calls += map(_call, values if isinstance(values, list) else [values])
        else:
            calls += _mistral_named(stripped)
    return Reply(_content(content), tuple(calls))


def _mistral_named(text: str) -> list[ToolCall]:
    calls = []
    at = 0
    while at < len(text):
        match = _MISTRAL_NAME.match(text, at)
        if match is None:
            raise NotACallError
        arguments, at = _DECODER.raw_decode(text, match.end())
        calls.append(_tool_call(match.group(1), arguments))
    return calls


def _pythonic(text: str) -> Reply:
    """`[name(argument="value", …), …]`: a Python list of calls, whose arguments are literals with names (Llama 3.2 and 4)."""
    stripped = text.strip().removeprefix("<|python_start|>").removesuffix("<|python_end|>").strip()
    if not (stripped.startswith("[") and stripped.endswith("]")) or len(stripped) > _LONGEST_PYTHON:
        return Reply(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd backslashes
        tree = ast.parse(stripped, mode="eval").body
    if not isinstance(tree, ast.List):
        raise NotACallError
    return Reply(None, tuple(map(_python_call, tree.elts)))


def _python_call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise NotACallError
    arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    try:
        return _tool_call(ast.unparse(node.func) if isinstance(node.func, (ast.Name, ast.Attribute)) else None, arguments)
    except TypeError:  # bytes, sets, complex numbers
        raise NotACallError from None


_LLAMA3 = ToolCallParser(_llama3_json, (_PYTHON_TAG,))

PARSERS: Mapping[str, ToolCallParser] = {
    "hermes": ToolCallParser(_hermes, ("<tool_call>", "</tool_call>")),
    "llama3_json": _LLAMA3,
    "llama4_json": _LLAMA3,
    "mistral": ToolCallParser(_mistral, (_MISTRAL, "[ARGS]", "[CALL_ID]"), short_ids=True),
    "pythonic": ToolCallParser(_pythonic, ("<|python_start|>", "<|python_end|>")),
}
