"""Batch of texts: one step's texts as flat arrays, for the model and the pooling. No torch.

text          0 0 0 0 1 1 2 2 2          S of them
tokens        [ t t t t|t t|t t t ... pad ]  N, padded to a multiple of ROW_MULTIPLE
starts        [ 0       4   6     9 ]        S + 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ..engine.batch import padded_rows
from ..types.pooling_request import TextIds


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Ints only."""

    tokens: NDArray[np.int64]
    """[N] token ids, zeros from T on."""
    positions: NDArray[np.int64]
    """[N] places in their texts."""
    types: NDArray[np.int64] | None
    """[N] token types; None if all are 0."""
    starts: NDArray[np.int32]
    """[S + 1] first token row of each text, and T."""
    unseen: NDArray[np.float32] | None = None
    """[T] what is added to the scores that a token gets from the others of its text: 0, or what makes it unseen; None: all are seen."""


def pack(texts: Sequence[TextIds]) -> TextBatch:
    """The batch of some texts, none of them empty."""
    counts = [len(text.ids) for text in texts]
    starts = np.zeros(len(texts) + 1, dtype=np.int32)
    np.cumsum(counts, out=starts[1:])
    total = int(starts[-1])
    size = padded_rows(total)
    tokens, positions = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    tokens[:total] = np.fromiter(chain.from_iterable([text.ids for text in texts]), np.int64, total)
    positions[:total] = np.arange(total) - np.repeat(starts[:-1], counts)
    types = None
    if any(text.types for text in texts):
        types = np.zeros(size, dtype=np.int64)
        for text, start in zip(texts, starts.tolist(), strict=False):
            if text.types:
                types[start : start + len(text.types)] = text.types
    return TextBatch(tokens, positions, types, starts, _unseen(texts, starts))


def _unseen(texts: Sequence[TextIds], starts: NDArray[np.int32]) -> NDArray[np.float32] | None:
    if not any(text.unseen for text in texts):
        return None
    found = np.zeros(int(starts[-1]), dtype=np.float32)
    for text, end in zip(texts, starts[1:].tolist(), strict=True):
        found[end - text.unseen : end] = np.finfo(np.float32).min
    return found


@dataclass(frozen=True, slots=True)
class Bags:
    """The token rows that are averaged for each text."""

    rows: NDArray[np.int64]
    """[M] token rows, those of a text together and in order."""
    offsets: NDArray[np.int64]
    """[R] where each text's begin among them; R is S padded, and what is too much has none."""
    counts: NDArray[np.float32]
    """[R, 1] how many they are."""


def bags(texts: Sequence[TextIds], batch: TextBatch) -> Bags:
    """All tokens of each text but the first `skip`."""
    ends = batch.starts[1:]
    first = batch.starts[:-1]
    if any(text.skip for text in texts):
        first = np.minimum(first + np.array([text.skip for text in texts], dtype=np.int32), ends)
    sizes = ends - first
    offsets = np.zeros(padded_rows(len(texts)) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1 : len(texts) + 1])
    total = int(offsets[len(texts)])
    offsets[len(texts) + 1 :] = total
    rows = np.arange(total)
    if total != ends[-1]:
        rows += np.repeat(first - offsets[: len(texts)], sizes)
    counts = np.zeros((len(offsets) - 1, 1), dtype=np.float32)
    counts[: len(texts), 0] = sizes
    return Bags(rows, offsets[:-1], counts)


@dataclass(frozen=True, slots=True)
class Tagged:
    """The token rows with one id."""

    rows: NDArray[np.int64]
    """[R] in order, zeros beyond them."""
    ends: NDArray[np.int64]
    """[S] where each text's end among them."""


def tagged(batch: TextBatch, token: int) -> Tagged:
    """The rows of a token; a text may have none."""
    total = int(batch.starts[-1])
    (places,) = (batch.tokens[:total] == token).nonzero()
    rows = np.zeros(padded_rows(len(places)), dtype=np.int64)
    rows[: len(places)] = places
    return Tagged(rows, np.searchsorted(places, batch.starts[1:]))


def single_rows(batch: TextBatch, pooling: str) -> NDArray[np.int64]:
    """[R] the first ("cls") or last ("last") token row of each text, zeros from S on."""
    starts = batch.starts
    count = len(starts) - 1
    rows = np.zeros(padded_rows(count), dtype=np.int64)
    rows[:count] = starts[:-1] if pooling == "cls" else starts[1:] - 1
    return rows
