"""Iterables in templates: each item is charged as it is taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .budget import LimitError, budget, charge

#: Lazy filters within lazy filters.
_MAX_LAZY = 64


class Counted:
    """An iterable whose every item costs characters and steps."""

    __slots__ = ("cost", "items", "text")

    def __init__(self, items: Iterable[Any], text: int, cost: int) -> None:
        self.items = items
        self.text = text
        self.cost = cost

    def __iter__(self) -> Iterator[Any]:
        step, text, cost = budget().step, self.text, self.cost
        for item in self.items:
            step(text, cost)
            yield item


class CountedSized(Counted):
    """One whose length is known: `loop.length` and `loop.last` ask for it."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]


class Lazy:
    """The iterator that a lazy filter gives. Iterators of iterators are limited here, as Python's stack is."""

    __slots__ = ("_items", "depth")

    def __init__(self, items: Iterator[Any], depth: int) -> None:
        if depth > _MAX_LAZY:
            raise LimitError(f"filters of filters, {_MAX_LAZY} times and more")
        self._items = items
        self.depth = depth

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        charge()
        return next(self._items)


def count(items: Any, text: int = 0, cost: int = 1) -> Counted:
    return (CountedSized if hasattr(items, "__len__") else Counted)(items, text, cost)


def pay(cost: int) -> None:
    charge(cost=cost)
