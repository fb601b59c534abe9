"""Recursive descent over a text that is written anew: what readers of regular expressions and of grammars have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ...errors import RecordError

#: Deepest nesting of parentheses.
MAX_DEPTH = 64
#: Highest count in braces.
MAX_COUNT = 65_536
HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


@dataclass
class Reader(ABC):
    """Reads alternatives, which are sequences of parts, which may be in parentheses; `at` is the place of the next character."""

    text: str
    at: int = 0

    @abstractmethod
    def error(self, message: str) -> RecordError:
        """An error that names the place."""

    @abstractmethod
    def sequence(self, depth: int) -> str:
        """One alternative, up to the next or a closing parenthesis."""

    def peek(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def take(self, text: str) -> bool:
        if not self.peek(text):
            return False
        self.at += len(text)
        return True

    def alternatives(self, depth: int) -> str:
        """Up to the end or a closing parenthesis."""
        if depth > MAX_DEPTH:
            raise self.error(f"parentheses are nested deeper than {MAX_DEPTH}")
        written = [self.sequence(depth)]
        while self.take("|"):
            written.append(self.sequence(depth))
        return "|".join(written)

    def count(self, low: int, high: int | None) -> str:
        """A count in braces, written anew; None: without end."""
        if max(low, high or 0) > MAX_COUNT:
            raise self.error(f"more than {MAX_COUNT} repetitions")
        if high is not None and high < low:
            raise self.error("the higher count is below the lower one")
        return f"{{{low},{'' if high is None else high}}}"

    def hexadecimal(self, digits: str, kind: str) -> int:
        """The number that the digits after an escape are; an empty text is none."""
        if not digits or not HEX_DIGITS.issuperset(digits):
            raise self.error(f"\\{kind} needs its hexadecimal digits")
        return int(digits, 16)

    def scalar(self, code: int) -> int:
        """A code of a character that texts may have."""
        if code == 0:
            raise self.error("the NUL character is not supported")
        if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            raise self.error("not a Unicode character")
        return code
