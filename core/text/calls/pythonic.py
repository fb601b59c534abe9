"""Pythonic tool calls: a Python list of calls in a model's answer, as Llama 3.2 and 4 write them."""

from __future__ import annotations

import ast
import re
import warnings

from ..json_spans import after_space
from .parser import ToolCallParser
from .tool_call import NotACallError, Parts, ToolCall, call_or, made

#: Longer Python text is not parsed: its syntax tree takes many times the memory.
_LONGEST = 100_000
_CLOSER = {"(": ")", "[": "]", "{": "}"}
_START, _END = "<|python_start|>", "<|python_end|>"
#: A string, what a backslash escapes, a bracket or a comma. What is escaped begins no string, or each of many could be searched to the end.
_TOKEN = re.compile(
    r"'''(?:[^\\]|\\.)*?'''"
    r'|"""(?:[^\\]|\\.)*?"""'
    r"|'(?:[^'\\\n]|\\.)*'"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|\\[^\n]"
    r"|[()\[\]{},]",
    re.DOTALL,
)


def _pythonic(text: str) -> Parts:
    """`[name(argument="value", …), …]`: a Python list of calls, whose arguments are literals with names (Llama 3.2 and 4).

    It begins the text, or follows `<|python_start|>`.
    """
    done, marker, start = 0, -1, after_space(text, 0)
    if not text.startswith("[", start):
        marker = text.find(_START)
        start = after_space(text, marker + len(_START)) if marker >= 0 else start
    if text.startswith("[", start) and len(text) <= _LONGEST:
        items, end = _list_at(text, start)
        if any(isinstance(item, ToolCall) for item in items):
            yield text[: max(marker, 0)]
            yield from items
            after = after_space(text, end)
            done = after + len(_END) if text.startswith(_END, after) else end
    yield text[done:]


def _list_at(text: str, start: int) -> tuple[list[str | ToolCall], int]:
    """The items of the Python list that begins at `start`, and where it ends or cannot be read any further."""
    items: list[str | ToolCall] = []
    closers: list[str] = []
    begins = start + 1
    for match in _TOKEN.finditer(text, start):
        token = match.group()
        if token in _CLOSER:
            closers.append(_CLOSER[token])
        elif token in _CLOSER.values() and token != closers.pop():
            break
        if not closers or (token == "," and len(closers) == 1):
            if item := text[begins : match.start()].strip():
                items.append(call_or(item, _call, item))
            begins = match.end()
        if not closers:
            break
    return items, begins


def calls_by_line(text: str, start: int, closing: str) -> tuple[list[str | ToolCall], int]:
    """The calls from `start` to `closing` or the end of the text, one a line, and where they end. Literals may be JSON's too."""
    items: list[str | ToolCall] = []
    depth, begins = 0, start
    for match in re.compile(rf"{_TOKEN.pattern}|{re.escape(closing)}|\n|\Z", re.DOTALL).finditer(text, start, start + _LONGEST):
        token = match.group()
        depth += (token in _CLOSER) - (token in _CLOSER.values())
        if token in ("\n", "", closing) and (depth <= 0 or token != "\n"):
            if item := text[begins : match.start()].strip():
                items.append(call_or(item, _call, item, json_names=True) if depth <= 0 else item)
            begins, depth = match.end(), 0
            if token != "\n":
                return items, match.end()
    return items, begins


#: JSON's names for Python's literals.
_JSON_NAMES = {"true": True, "false": False, "null": None}


class _Literals(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(ast.Constant(_JSON_NAMES[node.id]), node) if node.id in _JSON_NAMES else node


def _call(text: str, *, json_names: bool = False) -> ToolCall:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd backslashes
        node = ast.parse(text, mode="eval").body
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise NotACallError
    values = {str(keyword.arg): _Literals().visit(keyword.value) if json_names else keyword.value for keyword in node.keywords}
    arguments = {name: ast.literal_eval(value) for name, value in values.items()}
    try:
        return made(ast.unparse(node.func) if isinstance(node.func, (ast.Name, ast.Attribute)) else None, arguments)
    except TypeError:  # bytes, sets, complex numbers
        raise NotACallError from None


PARSER = ToolCallParser(_pythonic, (_START, _END))
