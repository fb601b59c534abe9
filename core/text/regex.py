"""Regular expressions for structured output: read, checked, and written anew so that they mean what their writer meant.

The dialect is what ECMAScript and Python's `re` (with re.ASCII) agree on, matched against the whole text. The grammar library reads
a regular expression generously: an anchor in the middle or an unknown escape is ignored with a warning, `.` matches a newline, and
inside a JSON string a literal quote may end the string. What cannot be meant exactly is refused here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from ..errors import RecordError

MAX_CHARS = 16_384
#: Deepest nesting of groups.
MAX_DEPTH = 64
#: Size with all counted repetitions written out.
MAX_SIZE = 100_000
#: Highest count in braces.
MAX_COUNT = 65_536

_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_SPECIAL = frozenset(r"\^$.*+?()[]{}|-/")
_REFUSED_GROUPS = {
    "=": "lookahead",
    "!": "lookahead",
    "<=": "lookbehind",
    "<!": "lookbehind",
    ">": "an atomic group",
    "#": "a comment",
    "P=": "a backreference",
    "(": "a conditional",
}


def normalized(pattern: str, *, in_json: bool = False) -> str:
    """The same language for the grammar library, in printable ASCII.

    Args:
        pattern: matches the whole text; a leading `^` and a trailing `$` are allowed.
        in_json: the text stands in a JSON string: what JSON escapes is written escaped.

    Raises RecordError (grammar_error) for what is not a regular expression, cannot be kept exactly, or is too large.
    """
    if len(pattern) > MAX_CHARS:
        raise RecordError("grammar_error", f"a regular expression of {len(pattern)} characters; at most {MAX_CHARS} are allowed")
    reader = _Reader(pattern, in_json)
    text, size = reader.alternatives(0)
    if reader.at < len(pattern):
        raise reader.error("unmatched )")
    if size > MAX_SIZE:
        raise RecordError("grammar_error", f"the repetitions of the regular expression come to more than {MAX_SIZE} characters")
    return text


#: Sets of characters are sorted ranges of codes, ends included, that do not touch.
Ranges = list[tuple[int, int]]


def _joined(ranges: Ranges) -> Ranges:
    result: Ranges = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(result[-1][1], high)
        else:
            result.append((low, high))
    return result


def _gaps(ranges: Ranges) -> Ranges:
    """All codes but these, from 1 up."""
    result, start = [], 1
    for low, high in _joined(ranges):
        if low > start:
            result.append((start, low - 1))
        start = high + 1
    return [*result, (start, _LAST)] if start <= _LAST else result


def _others(ranges: Ranges) -> Ranges:
    """All characters but these, and but NUL."""
    return _gaps([*ranges, _SURROGATES])


def _without(ranges: Ranges, removed: Ranges) -> Ranges:
    return _others([*_others(ranges), *removed])


_LAST = 0x10FFFF
#: No characters. The library takes them for some, and then writes what is no UTF-8.
_SURROGATES = (0xD800, 0xDFFF)
_DIGITS: Ranges = [(0x30, 0x39)]
_WORD: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE: Ranges = [(0x09, 0x0D), (0x20, 0x20)]
#: What is whitespace in either language is not matched by \\S; only what is in both is by \\s.
_ANY_SPACE: Ranges = [*_SPACE, (0x1C, 0x1F), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)]
_ANY_SPACE += [(0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)]
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE, "D": _others(_DIGITS), "W": _others(_WORD), "S": _others(_ANY_SPACE)}
_NO_LINE_END = _others([(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)])
#: What JSON writes escaped.
_ESCAPED: Ranges = [(0x01, 0x1F), (0x22, 0x22), (0x5C, 0x5C)]


@dataclass
class _Reader:
    """Recursive descent; `at` is the place of the next character. Methods return (text, size)."""

    pattern: str
    in_json: bool
    at: int = 0

    def error(self, message: str) -> RecordError:
        return RecordError("grammar_error", f"regular expression, character {self.at + 1}: {message}")

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def take(self, text: str) -> bool:
        if not self.peek(text):
            return False
        self.at += len(text)
        return True

    def alternatives(self, depth: int) -> tuple[str, int]:
        """Up to the end or a closing parenthesis."""
        if depth > MAX_DEPTH:
            raise self.error(f"groups are nested deeper than {MAX_DEPTH}")
        texts, size = [], 0
        while True:
            text, more = self.sequence(depth)
            texts.append(text)
            size += more
            if not self.take("|"):
                return "|".join(texts), size

    def sequence(self, depth: int) -> tuple[str, int]:
        texts: list[str] = []
        size = 1
        if not depth:
            self.take("^")
        while self.at < len(self.pattern) and not self.peek("|") and not self.peek(")"):
            if self.peek("$") and not depth and self.pattern[self.at + 1 : self.at + 2] in ("", "|"):
                self.at += 1
                break
            text, one = self.atom(depth)
            suffix, times = self.quantifier()
            texts.append(text + suffix)
            size += one * times
        return "".join(texts), size

    def atom(self, depth: int) -> tuple[str, int]:
        char = self.pattern[self.at]
        if char in "^$":
            raise self.error(f"{char} in the middle; it may only begin or end the whole expression")
        if char in "*+?" or (char == "{" and self.counts() is not None):
            raise self.error("nothing to repeat")
        if char == "{":
            raise self.error("a literal { is written \\{")
        self.at += 1
        if char == "(":
            return self.group(depth)
        if char == "[":
            return self.char_class(), 1
        if char == ".":
            return self.one_of(_NO_LINE_END, []), 1
        if char == "\\":
            kind, value = self.escape()
            return (self.one_of(_CLASSES[value], []), 1) if kind else self.literal(value)
        return self.literal(char)

    def group(self, depth: int) -> tuple[str, int]:
        if self.take("?"):
            for mark, what in _REFUSED_GROUPS.items():
                if self.peek(mark):
                    raise self.error(f"{what} is not supported")
            if self.take("P<") or self.take("<"):
                end = self.pattern.find(">", self.at)
                if end < 0 or not self.pattern[self.at : end].isidentifier():
                    raise self.error("a group's name is missing or wrong")
                self.at = end + 1
            elif not self.take(":"):
                raise self.error("flags in a group are not supported")
        text, size = self.alternatives(depth + 1)
        if not self.take(")"):
            raise self.error("a ) is missing")
        return f"(?:{text})", size

    def counts(self) -> tuple[int, int | None] | None:
        """Lowest and highest count of the braces at `at`, if there are such."""
        end = self.pattern.find("}", self.at)
        low, comma, high = self.pattern[self.at + 1 : end].partition(",")
        if end < 0 or not (low.isascii() and low.isdigit()) or not (high == "" or (high.isascii() and high.isdigit())):
            return None
        if len(low) > 9 or len(high) > 9:
            raise self.error(f"more than {MAX_COUNT} repetitions")
        return int(low), (int(low) if not comma else int(high) if high else None)

    def quantifier(self) -> tuple[str, int]:
        """A quantifier and what it multiplies the size by. Lazy ones match the same texts as greedy ones."""
        char = self.pattern[self.at : self.at + 1]
        if char in ("*", "+", "?"):
            self.at += 1
            text, times = char, 1
        elif char == "{":
            counts = self.counts()
            if counts is None:
                raise self.error("a { begins a count, {n}, {n,} or {n,m}; a literal one is written \\{")
            low, high = counts
            if max(low, high or 0) > MAX_COUNT:
                raise self.error(f"more than {MAX_COUNT} repetitions")
            if high is not None and high < low:
                raise self.error("the higher count is below the lower one")
            self.at = self.pattern.index("}", self.at) + 1
            text, times = f"{{{low},{'' if high is None else high}}}", max(1, low if high is None else high)
        else:
            return "", 1
        self.take("?")
        if self.pattern[self.at : self.at + 1] in ("*", "+", "?") or (self.peek("{") and self.counts() is not None):
            raise self.error("nothing to repeat")
        return text, times

    def escape(self) -> tuple[bool, str]:
        """After a backslash: (True, the letter of a class) or (False, the character that is meant)."""
        char = self.pattern[self.at : self.at + 1]
        self.at += 1
        if char in _CLASSES:
            return True, char
        if char in _CONTROLS:
            return False, _CONTROLS[char]
        if char in ("x", "u"):
            return False, self.code(char)
        if char in tuple("123456789k"):
            raise self.error("a backreference is not supported")
        if char in tuple("bB"):
            raise self.error("a word boundary is not supported")
        if char == "" or (char.isascii() and char.isalnum()):
            raise self.error(f"unknown escape \\{char}")
        return False, char

    def code(self, kind: str) -> str:
        """After \\x or \\u: the character of a code. Two halves of a surrogate pair make one."""
        if kind == "u" and self.take("{"):
            end = self.pattern.find("}", self.at)
            digits = self.pattern[self.at : end] if end >= 0 else ""
            self.at += len(digits) + 1
        else:
            digits = self.pattern[self.at : self.at + (2 if kind == "x" else 4)]
            self.at += len(digits)
            if len(digits) != (2 if kind == "x" else 4):
                digits = ""
        if not digits or len(digits) > 6 or not all(c in "0123456789abcdefABCDEF" for c in digits):
            raise self.error(f"\\{kind} needs its hexadecimal digits")
        value = int(digits, 16)
        if 0xD800 <= value < 0xDC00 and self.pattern[self.at : self.at + 2] == "\\u":
            low = self.pattern[self.at + 2 : self.at + 6]
            if len(low) == 4 and low[:2].upper() in ("DC", "DD", "DE", "DF") and low[2:].isalnum():
                self.at += 6
                value = 0x10000 + ((value - 0xD800) << 10) + (int(low, 16) - 0xDC00)
        return chr(self.scalar(value))

    def scalar(self, value: int) -> int:
        if value == 0:
            raise self.error("the NUL character is not supported")
        if 0xD800 <= value < 0xE000 or value > 0x10FFFF:
            raise self.error("not a Unicode character")
        return value

    def literal(self, char: str) -> tuple[str, int]:
        self.scalar(ord(char))
        if not self.in_json:
            return _spelled(char), 1
        spelling = _in_json_string(char)
        text = "".join(map(_spelled, spelling))
        return (text if len(spelling) == 1 else f"(?:{text})"), len(spelling)

    def char_class(self) -> str:
        """After the opening bracket."""
        negated = self.take("^")
        ranges: Ranges = []
        classes: Ranges = []
        letters = ""
        if self.peek("]"):
            raise self.error("an empty class; a literal ] is written \\]")
        while not self.take("]"):
            if self.peek("[:") or self.peek("[.") or self.peek("[="):
                raise self.error("POSIX classes are not supported")
            kind, low = self.class_item()
            is_range = self.peek("-") and not self.peek("-]")
            if kind and is_range:
                raise self.error("a range from a class")
            if kind:
                letters += low
                classes += _ANY_SPACE if negated and low == "s" else _CLASSES[low]
                continue
            high = low
            if is_range:
                self.at += 1
                kind, high = self.class_item()
                if kind:
                    raise self.error("a range to a class")
                if ord(high) < ord(low):
                    raise self.error("a range that runs backwards")
            ranges.append((ord(low), ord(high)))
        if "s" in letters and "S" in letters:  # the two leave nothing out, whatever each of them is
            classes.append((1, _LAST))
        if negated:
            return self.one_of(_others([*ranges, *classes]), [])
        return self.one_of(_joined([*ranges, *classes]), ranges)

    def class_item(self) -> tuple[bool, str]:
        char = self.pattern[self.at : self.at + 1]
        self.at += 1
        if char == "\\":
            if self.take("b"):
                return False, "\b"
            return self.escape()
        if char == "":
            raise self.error("a ] is missing")
        self.scalar(ord(char))
        return False, char

    def one_of(self, chars: Ranges, spelled: Ranges) -> str:
        """A class of `chars`. Of those that JSON escapes, the ones in `spelled` become alternatives beside it, the others are left out:
        who says `.` seldom means a quote."""
        if not self.in_json:
            chars = _without(chars, [])
            parts = [_class(chars)] if chars else []
        else:
            plain = _without(chars, _ESCAPED)
            parts = [_class(plain)] if plain else []
            escaped = [c for low, high in _ESCAPED for c in range(low, high + 1) if any(a <= c <= b for a, b in spelled)]
            parts += ["".join(map(_spelled, _in_json_string(chr(code)))) for code in escaped]
        if not parts:
            raise self.error("a class that matches nothing")
        return parts[0] if len(parts) == 1 and parts[0].startswith("[") else f"(?:{'|'.join(parts)})"


def _in_json_string(char: str) -> str:
    return json.dumps(char, ensure_ascii=False)[1:-1]


def _spelled(char: str) -> str:
    """One character outside a class."""
    if char in _SPECIAL:
        return "\\" + char
    return char if char.isascii() and char.isprintable() else _code(ord(char))


def _class(ranges: Ranges) -> str:
    """The library reads a hyphen as one only at the end of a class, however it is written."""
    negated = ranges[-1][1] == _LAST
    hyphen = ord("-")
    spans: list[str] = []
    listed = _gaps(ranges) if negated else ranges
    for low, high in listed:
        first, last = low + (low == hyphen), high - (high == hyphen)
        if first <= last:
            spans.append(_in_class(first) if first == last else f"{_in_class(first)}-{_in_class(last)}")
    end = "-" if any(hyphen in (low, high) for low, high in listed) else ""
    return f"[{'^' if negated else ''}{''.join(spans)}{end}]"


def _in_class(code: int) -> str:
    char = chr(code)
    if char in "^[]\\":
        return "\\" + char
    return char if char.isascii() and char.isprintable() else _code(code)


def _code(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\u{{{code:x}}}"
