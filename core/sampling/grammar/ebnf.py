"""EBNF grammars (GBNF notation) in the grammar library's language.

    root ::= item ("," item)*      # a rule; alternatives are separated by |, and a rule ends where the next one begins
    item ::= "x" | [0-9a-f]{2,4}   # texts, classes of characters, and *, +, ?, {n}, {n,}, {n,m} after any part

The library reads text in lexemes, each as long as it can be; here every character is a lexeme of its own, so that a grammar means
all the texts it derives, wherever its parts begin and end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ...errors import RecordError
from .descent import Reader

MAX_RULES = 5_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
#: Each comment runs to the end of its line, in one way only: of `####` there would be as many as it has cuts.
_SPACE = re.compile(r"(?:\s|#[^\n]*(?:\n|\Z))*")
_BEGINS_RULE = re.compile(rf"{_NAME.pattern}{_SPACE.pattern}::=")
_COUNT = re.compile(r"\{\s*([0-9]{1,9})\s*(,\s*([0-9]{1,9})?\s*)?\}")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "'": "'", "]": "]", "[": "[", "-": "-", "^": "^", "/": "/"}
_CODES = {"x": 2, "u": 4, "U": 8}


def to_lark(text: str, prefix: str = "") -> str:
    """The rules of a grammar in the library's language; `root` becomes `{prefix}root`.

    Raises RecordError (grammar_error).
    """
    return _Reader(text, prefix=prefix).rules()


def literal(text: str) -> str:
    """A text, character by character, in the library's language."""
    return " ".join(f"/{_one(ord(char))}/" for char in text) or '""'


def _one(code: int) -> str:
    return f"\\x{{{code:x}}}"


@dataclass
class _Reader(Reader):
    prefix: str = ""
    names: dict[str, str] = field(default_factory=dict)
    """Rules that are named -> what they are called in the result."""

    def error(self, message: str) -> RecordError:
        line = self.text.count("\n", 0, self.at) + 1
        column = self.at - (self.text.rfind("\n", 0, self.at) + 1) + 1
        return RecordError("grammar_error", f"grammar, line {line}, column {column}: {message}")

    def skip(self) -> None:
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def take(self, text: str) -> bool:
        """With the space behind it."""
        taken = super().take(text)
        if taken:
            self.skip()
        return taken

    def name(self) -> str:
        found = _NAME.match(self.text, self.at)
        if found is None:
            raise self.error("a rule's name is expected")
        self.at = found.end()
        self.skip()
        return found[0]

    def called(self, name: str) -> str:
        return self.names.setdefault(name, f"{self.prefix}root" if name == "root" else f"{self.prefix}r{len(self.names)}")

    def rules(self) -> str:
        written: dict[str, str] = {}
        self.skip()
        while self.at < len(self.text):
            name = self.name()
            if name in written:
                raise self.error(f"rule {name!r} is defined twice")
            if not self.take("::="):
                raise self.error("::= is expected")
            written[name] = self.alternatives(0)
            if len(written) > MAX_RULES:
                raise self.error(f"more than {MAX_RULES} rules")
        if "root" not in written:
            raise RecordError("grammar_error", "grammar: it has no rule root")
        for name in self.names:
            if name not in written:
                raise RecordError("grammar_error", f"grammar: rule {name!r} is not defined")
        return "".join(f"{self.called(name)}: {body}\n" for name, body in written.items())

    def sequence(self, depth: int) -> str:
        parts: list[str] = []
        while self.at < len(self.text) and not self.peek("|") and not self.peek(")"):
            if not depth and _BEGINS_RULE.match(self.text, self.at):
                break
            parts.append(self.part(depth))
        if not parts:
            raise self.error('something is expected here; nothing is written ""')
        return " ".join(parts)

    def part(self, depth: int) -> str:
        if self.peek('"'):
            text = self.quoted()
            written = f"({text})" if " " in text else text
        elif self.peek("["):
            written = self.char_class()
        elif self.take("("):
            if self.peek("="):
                raise self.error("lookahead is not supported")
            written = f"({self.alternatives(depth + 1)})"
            if not self.peek(")"):
                raise self.error("a ) is missing")
            self.at += 1
        else:
            written = self.called(self.name())
        self.skip()
        times = self.repetition()
        self.skip()
        return '""' if times == "{0,0}" else written + times

    def repetition(self) -> str:
        for mark in ("*", "+", "?"):
            if self.take(mark):
                return mark
        if not self.peek("{"):
            return ""
        counts = _COUNT.match(self.text, self.at)
        if counts is None:
            raise self.error("a { begins a count: {n}, {n,} or {n,m}")
        low, high = int(counts[1]), int(counts[3]) if counts[3] else None if counts[2] else int(counts[1])
        self.at = counts.end()
        return self.count(low, high)

    def char(self, end: str) -> str:
        """One character of a text or a class, escapes resolved."""
        char = self.text[self.at : self.at + 1]
        if char in ("", "\n"):
            raise self.error(f"a {end} is missing")
        self.at += 1
        if char != "\\":
            return chr(self.scalar(ord(char)))
        kind = self.text[self.at : self.at + 1]
        self.at += 1
        if kind in _CODES:
            digits = self.text[self.at : self.at + _CODES[kind]]
            self.at += len(digits)
            return chr(self.scalar(self.hexadecimal(digits if len(digits) == _CODES[kind] else "", kind)))
        if kind not in _ESCAPES:
            raise self.error(f"unknown escape \\{kind}")
        return _ESCAPES[kind]

    def quoted(self) -> str:
        self.at += 1
        chars = []
        while not self.peek('"'):
            chars.append(self.char('"'))
        self.at += 1
        return literal("".join(chars))

    def char_class(self) -> str:
        self.at += 1
        negated = self.peek("^")
        self.at += negated
        parts: list[str] = []
        while not self.peek("]"):
            low = high = self.char("]")
            if self.peek("-") and not self.peek("-]"):
                self.at += 1
                high = self.char("]")
                if high < low:
                    raise self.error("a range that runs backwards")
            parts.append(_one(ord(low)) if low == high else f"{_one(ord(low))}-{_one(ord(high))}")
        self.at += 1
        if negated:
            return f"/[^{''.join(parts)}\\x00]/"
        if not parts:
            raise self.error("an empty class")
        return f"/[{''.join(parts)}]/"
