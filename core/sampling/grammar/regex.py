"""Regular expressions for structured output: read, checked, and written anew so that they mean what their writer meant.

The dialect is what ECMAScript and Python's `re` agree on, matched against the whole text. The grammar library's own differs in
what looks alike (`[[a]`, `[a&&b]`, `a++`), so each character is written as its code and each class as its members: the narrowest
reading of a class where it allows characters, the widest where it forbids them. What cannot be meant exactly is refused here.
"""

from __future__ import annotations

from ...errors import RecordError
from .descent import HEX_DIGITS, MAX_COUNT, Reader

MAX_CHARS = 16_384

_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
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
_SPACES = r"\x09-\x0d\x20"
#: What is whitespace in one of the languages.
_ANY_SPACES = r"\s\x1c-\x1f\u{feff}"
_ANY_WORD = r"\w\p{L}\p{N}"
#: Letter of a class -> its members, as few as either language gives it.
_NARROW = {
    "d": "0-9",
    "w": "0-9A-Za-z_",
    "s": _SPACES,
    "D": r"\D",
    "W": f"[^{_ANY_WORD}]",
    "S": f"[^{_ANY_SPACES}]",
}
#: The same, as many as either gives it.
_WIDE = {"d": r"\d", "w": _ANY_WORD, "s": _ANY_SPACES, "D": "[^0-9]", "W": "[^0-9A-Za-z_]", "S": f"[^{_SPACES}]"}
#: NUL is in no text; `.` leaves out what ends a line in either language.
_NUL = r"\x00"
_ANYTHING = f"[^{_NUL}]"
_NO_LINE_END = rf"[^\n\r\u{{2028}}\u{{2029}}{_NUL}]"


def normalized(pattern: str) -> str:
    """The same language in the grammar library's dialect, in printable ASCII without slashes.

    Args:
        pattern: matches the whole text; a leading `^` and a trailing `$` are allowed.

    Raises RecordError (grammar_error) for what is not a regular expression, or cannot be kept exactly.
    """
    if len(pattern) > MAX_CHARS:
        raise RecordError("grammar_error", f"a regular expression of {len(pattern)} characters; at most {MAX_CHARS} are allowed")
    reader = _Reader(pattern)
    text = reader.alternatives(0)
    if reader.at < len(pattern):
        raise reader.error("unmatched )")
    return text


def spelled(text: str) -> str:
    """A text as a regular expression that matches it alone."""
    return "".join(map(_character, text))


def _character(char: str) -> str:
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}"


class _Reader(Reader):
    def error(self, message: str) -> RecordError:
        return RecordError("grammar_error", f"regular expression, character {self.at + 1}: {message}")

    def sequence(self, depth: int) -> str:
        texts: list[str] = []
        if not depth:
            self.take("^")
        while self.at < len(self.text) and not self.peek("|") and not self.peek(")"):
            if self.peek("$") and not depth and self.text[self.at + 1 : self.at + 2] in ("", "|"):
                self.at += 1
                break
            texts.append(self.atom(depth) + self.quantifier())
        return "".join(texts)

    def atom(self, depth: int) -> str:
        char = self.text[self.at]
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
            return self.char_class()
        if char == ".":
            return _NO_LINE_END
        if char == "\\":
            is_class, value = self.escape()
            return f"[{_NARROW[value]}&&{_ANYTHING}]" if is_class else _character(value)
        self.scalar(ord(char))
        return _character(char)

    def group(self, depth: int) -> str:
        if self.take("?"):
            for mark, what in _REFUSED_GROUPS.items():
                if self.peek(mark):
                    raise self.error(f"{what} is not supported")
            if self.take("P<") or self.take("<"):
                end = self.text.find(">", self.at)
                if end < 0 or not self.text[self.at : end].isidentifier():
                    raise self.error("a group's name is missing or wrong")
                self.at = end + 1
            elif not self.take(":"):
                raise self.error("flags in a group are not supported")
        text = self.alternatives(depth + 1)
        if not self.take(")"):
            raise self.error("a ) is missing")
        return f"(?:{text})"

    def counts(self) -> tuple[int, int | None] | None:
        """Lowest and highest count of the braces at `at`, if there are such."""
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at + 1 : end].partition(",")
        if end < 0 or not (low.isascii() and low.isdigit()) or not (high == "" or (high.isascii() and high.isdigit())):
            return None
        if len(low) > 9 or len(high) > 9:
            raise self.error(f"more than {MAX_COUNT} repetitions")
        return int(low), (int(low) if not comma else int(high) if high else None)

    def quantifier(self) -> str:
        """The quantifier after an atom, if there is one. Lazy quantifiers match the same texts as greedy ones."""
        char = self.text[self.at : self.at + 1]
        if char in ("*", "+", "?"):
            self.at += 1
            text = char
        elif char == "{":
            counts = self.counts()
            if counts is None:
                raise self.error("a { begins a count, {n}, {n,} or {n,m}; a literal one is written \\{")
            text = self.count(*counts)
            self.at = self.text.index("}", self.at) + 1
        else:
            return ""
        self.take("?")
        if self.text[self.at : self.at + 1] in ("*", "+", "?") or (self.peek("{") and self.counts() is not None):
            raise self.error("nothing to repeat")
        return text

    def escape(self) -> tuple[bool, str]:
        """After a backslash: (True, the letter of a class) or (False, the character that is meant)."""
        char = self.text[self.at : self.at + 1]
        self.at += 1
        if char in _NARROW:
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
        self.scalar(ord(char))
        return False, char

    def code(self, kind: str) -> str:
        """After \\x or \\u: the character of a code. Two halves of a surrogate pair make one."""
        if kind == "u" and self.take("{"):
            end = self.text.find("}", self.at)
            digits = self.text[self.at : end] if end >= 0 else ""
            self.at += len(digits) + 1
        else:
            digits = self.text[self.at : self.at + (2 if kind == "x" else 4)]
            self.at += len(digits)
            if len(digits) != (2 if kind == "x" else 4):
                digits = ""
        value = self.hexadecimal(digits if len(digits) <= 6 else "", kind)
        if 0xD800 <= value < 0xDC00 and self.text[self.at : self.at + 2] == "\\u":
            low = self.text[self.at + 2 : self.at + 6]
            if len(low) == 4 and low[:2].upper() in ("DC", "DD", "DE", "DF") and HEX_DIGITS.issuperset(low):
                self.at += 6
                value = 0x10000 + ((value - 0xD800) << 10) + (int(low, 16) - 0xDC00)
        return chr(self.scalar(value))

    def char_class(self) -> str:
        """After the opening bracket."""
        negated = self.take("^")
        parts: list[str] = []
        letters = set()
        if self.peek("]"):
            raise self.error("an empty class; a literal ] is written \\]")
        while not self.take("]"):
            if self.peek("[:") or self.peek("[.") or self.peek("[="):
                raise self.error("POSIX classes are not supported")
            is_class, low = self.class_item()
            is_range = self.peek("-") and not self.peek("-]")
            if is_class and is_range:
                raise self.error("a range from a class")
            if is_class:
                letters.add(low)
                parts.append((_WIDE if negated else _NARROW)[low])
                continue
            high = low
            if is_range:
                self.at += 1
                is_class, high = self.class_item()
                if is_class:
                    raise self.error("a range to a class")
                if ord(high) < ord(low):
                    raise self.error("a range that runs backwards")
            parts.append(_character(low) if low == high else f"{_character(low)}-{_character(high)}")
        if any(letter.swapcase() in letters for letter in letters):  # such a pair leaves nothing out, whatever each of them is
            parts = [r"\x01-\u{10ffff}"]
        if negated:
            return f"[^{''.join(parts)}{_NUL}]"
        return f"[{''.join(parts)}&&{_ANYTHING}]" if letters else f"[{''.join(parts)}]"

    def class_item(self) -> tuple[bool, str]:
        char = self.text[self.at : self.at + 1]
        self.at += 1
        if char == "\\":
            if self.take("b"):
                return False, "\b"
            return self.escape()
        if char == "":
            raise self.error("a ] is missing")
        self.scalar(ord(char))
        return False, char
