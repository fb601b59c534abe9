"""Texts in batches: what is tokenized in one call, of bounded size whatever the texts are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

#: Characters of one batch; bounds the memory of one call.
BATCH_CHARS = 1 << 20


def in_batches(items: Iterable[T], length: Callable[[T], int]) -> Iterator[list[T]]:
    """Lists of about BATCH_CHARS characters, at least one item each.

    Args:
        length: characters of an item.
    """
    batch: list[T] = []
    size = 0
    for item in items:
        more = length(item)
        if batch and size + more > BATCH_CHARS:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += more
    if batch:
        yield batch
