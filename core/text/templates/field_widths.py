"""Formats with `%` and with braces: how long their results can be, known before they are made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .as_text import check_text
from .budget import LimitError, charge, check_chars

#: Of a field of `%`, after its name: flags, width, precision, and a letter that means nothing.
_PERCENT = re.compile(r"[-#0 +]*(\*|[0-9]*)(?:\.(\*|[0-9]*))?[hlL]?")
_PARENTHESIS = re.compile(r"[()]")
_WIDE_BRACES = re.compile(r"\{[^{}:]*:[^{}]*(?:\d{7}|\{)")
_WIDE = "a format with a variable or very large width"
#: Digits of a width that is not yet very large.
_WIDTH_DIGITS = 6


def check_percent(pattern: Any, args: Any) -> None:
    """Of `pattern % args`. Refuses widths of a million and more, widths taken from arguments, and what would be too long in all."""
    if not isinstance(pattern, bytes):
        check_text(pattern)
    pattern = pattern.decode("latin-1") if isinstance(pattern, bytes) else str(pattern)
    fields = padding = 0
    for width in percent_widths(pattern):
        fields += 1
        padding += width
    if fields:
        most = len(pattern) + padding + fields * check_text(args)
        check_chars(most)
        charge(most >> 4, 1 + fields)


def percent_widths(pattern: str) -> Iterator[int]:
    """Width and precision of each field together, as Python reads them: brackets may stand in brackets in a field's name."""
    at = pattern.find("%")
    while at >= 0:
        at += 1
        if pattern.startswith("(", at):
            depth = 0
            for bracket in _PARENTHESIS.finditer(pattern, at):
                depth += 1 if bracket[0] == "(" else -1
                if not depth:
                    at = bracket.end()
                    break
            else:
                return  # which Python refuses
        numbers = _PERCENT.match(pattern, at)
        assert numbers is not None
        width = 0
        for number in filter(None, numbers.groups()):
            if number == "*" or len(number) > _WIDTH_DIGITS:
                raise LimitError(_WIDE)
            width += int(number)
        yield width
        at = pattern.find("%", numbers.end() + 1)  # behind the field's letter, which may be a %


def check_braces(pattern: Any, args: tuple[Any, ...]) -> None:
    """The greatest length of `pattern.format(args)`."""
    pattern = str(pattern)
    if _WIDE_BRACES.search(pattern):
        raise LimitError(_WIDE)
    if fields := pattern.count("{"):
        widest = max((int(digits) for digits in re.findall(r"\d+", pattern) if len(digits) <= _WIDTH_DIGITS), default=0)
        most = len(pattern) + fields * (widest + check_text(args))
        check_chars(most)
        charge(most >> 4, 1 + fields)
