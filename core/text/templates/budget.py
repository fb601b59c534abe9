"""Budget of a template: the work that one rendering may do, counted, whatever the machine and its load.

Steps are loop iterations, calls and items that are looked at; characters are those written, captured, or copied on the way.
Operations that can make much of little are measured before they run. `sandbox.py` charges; `filters.py` has the operations.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from sys import getsizeof
from typing import Any

from jinja2.utils import Namespace

#: Steps of one rendering. One to three seconds.
MAX_STEPS = 5_000_000
#: What a call costs.
CALL = 16
#: Calls within calls: macros and recursive loops.
MAX_CALLS = 100
#: Characters that one rendering may write.
MAX_CHARS = 64 * 2**20
#: Characters that it may handle on the way there: expressions, results of macros, the literal text of loops.
MAX_HANDLED = 4 * MAX_CHARS
#: Items of data, and the width of padding, that one operation may have to do with.
MAX_ITEMS = 1_000_000
#: Lists within lists: somewhat more than a record may have (200).
MAX_DEPTH = 256
#: Bits of a number.
MAX_BITS = 20_000


class LimitError(Exception):
    """A template used more than it may."""


class Budget:
    """The work left to the rendering under way in this thread, and names of the methods that it may call (None: any)."""

    __slots__ = ("calls", "chars", "methods", "steps")

    def __init__(self, methods: frozenset[str] | None) -> None:
        self.steps = MAX_STEPS
        self.chars = MAX_HANDLED
        self.calls = 0
        self.methods = methods

    def step(self, chars: int = 0, cost: int = 1) -> None:
        self.steps -= cost
        self.chars -= chars
        if self.steps < 0:
            raise LimitError(f"more than {MAX_STEPS:,} steps (loop iterations and calls)")
        if self.chars < 0:
            raise LimitError(f"more than {MAX_HANDLED:,} characters handled")


_thread = threading.local()


def renew(methods: frozenset[str] | None = None) -> None:
    """Gives this thread a full budget: a rendering begins."""
    _thread.budget = Budget(methods)


def budget() -> Budget:
    found: Budget = _thread.budget
    return found


def charge(chars: int = 0, cost: int = 1) -> None:
    """Raises LimitError once nothing is left."""
    _thread.budget.step(chars, cost)


def looked(chars: int) -> None:
    """Charges for text that is searched or compared: less than for handling it."""
    if chars > 255:
        budget().step(chars >> 4, 0)


def copied(*texts: str | bytes) -> None:
    """Charges for text that is copied, by the memory it takes."""
    size = sum(map(getsizeof, texts))
    if size > 255:
        budget().step(size >> 1, 0)


#: What holds items, beside dicts: lists, and the views that dicts give.
_LISTS: Any = (list, tuple, type({}.keys()), type({}.values()), type({}.items()))


@dataclass
class Size:
    """Of data as it would be written: what it holds twice counts twice."""

    items: int = 0
    chars: int = 0
    depth: int = 0
    others: list[Any] = field(default_factory=list)
    """Values that are neither data nor text: functions, iterators, objects of jinja2."""


def measure(*values: Any) -> Size:
    """Measure and charge for data. Raises LimitError for too many items or characters, or too many levels."""
    items = chars = depth = 0
    others: list[Any] = []
    level: Iterable[Any] = values
    while level:
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                chars += len(value)
                continue
            if value is None or isinstance(value, int):
                chars += 5 + (value or 0).bit_length() // 3
                continue
            if isinstance(value, Namespace):
                value = value._Namespace__attrs  # noqa: PLW2901
            if isinstance(value, dict):
                items += len(value)
                check_items(items)
                inner.extend(value)
                inner.extend(value.values())
            elif isinstance(value, _LISTS):
                items += len(value)
                check_items(items)
                inner.extend(value)
            elif hasattr(value, "__len__"):  # bytes
                chars += len(value)
            else:
                chars += 24
                others.append(value)
        check_chars(chars)
        depth += bool(inner)
        if depth > MAX_DEPTH:
            raise LimitError(f"data nested deeper than {MAX_DEPTH}")
        level = inner
    budget().step(chars >> 4, 1 + items)
    return Size(items, chars, depth, others)


def check_items(count: int) -> None:
    if count > MAX_ITEMS:
        raise LimitError(f"more than {MAX_ITEMS:,} items of data")


def check_chars(count: int) -> None:
    if count > MAX_CHARS:
        raise LimitError(f"text of {count:,} characters, more than {MAX_CHARS:,}")


def check_width(values: Iterable[Any]) -> None:
    """Of padding, of an indentation, or a count of things to make."""
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_ITEMS:
            raise LimitError(f"{value} as a width or count, more than {MAX_ITEMS:,}")


def check_number(value: Any) -> Any:
    """`value`, unless it is a number too long to go on with."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise LimitError(f"a number of more than {MAX_BITS:,} bits")
    return value
