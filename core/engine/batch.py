"""A schedule as flat arrays: what the model needs of a step, without text, parameters or Python objects.

sequence      0 . . . 1 2 2 2 2 ...          S of them
tokens        [ t t t t|t|t t t t ... pad ]  N, padded to a multiple of ROW_MULTIPLE
query_start   [ 0 . . . 4 5 . . . 9 ]        S + 1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scheduler import Schedule

#: Same as kernels.ops.ROW_MULTIPLE, which cannot be imported here without torch; a test compares them.
ROW_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """Ints only: this is what is sent to other ranks."""

    tokens: NDArray[np.int64]
    """[N] token ids, zeros from T on."""
    positions: NDArray[np.int64]
    """[N] places in their sequences."""
    query_start: NDArray[np.int32]
    """[S + 1] first token row of each sequence, and T."""
    kv_lens: NDArray[np.int32]
    """[S] tokens in the cache after this step."""
    block_tables: NDArray[np.int32]
    """[S, most blocks], zero-padded."""
    slots: NDArray[np.int64]
    """[T] where keys and values go."""
    logit_rows: NDArray[np.int64]
    """[R'] token rows whose logits are wanted, zeros from R on; padded too."""
    num_logits: int
    """R"""
    copies: NDArray[np.int64]
    """[C, 2] (source, target) block copies to make first."""


def padded_rows(count: int) -> int:
    """`count` rounded up to a multiple of ROW_MULTIPLE, and of an eighth of its size: GEMM libraries build and keep a kernel for
    every number of rows they meet, so the large ones come in few sizes."""
    step = max(ROW_MULTIPLE, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def pack(schedule: Schedule, block_size: int) -> Batch:
    sequences = [row.sequence for row in schedule.rows]
    counts = np.array([row.count for row in schedule.rows], dtype=np.int64)
    computed = np.array([s.num_computed for s in sequences], dtype=np.int64)
    query_start = np.concatenate(([0], np.cumsum(counts)))
    total = int(query_start[-1])

    tokens = np.zeros(padded_rows(total), dtype=np.int64)
    flat: list[int] = []
    for row in schedule.rows:
        s = row.sequence
        flat += s.tokens[s.num_computed : s.num_computed + row.count]
    tokens[:total] = flat
    positions = np.zeros_like(tokens)
    positions[:total] = np.arange(total) - np.repeat(query_start[:-1] - computed, counts)

    tables = np.zeros((len(sequences), max(len(s.blocks) for s in sequences)), dtype=np.int32)
    for i, s in enumerate(sequences):
        tables[i, : len(s.blocks)] = s.blocks
    place = positions[:total]
    slots = tables[np.repeat(np.arange(len(sequences)), counts), place // block_size].astype(np.int64) * block_size + place % block_size

    wanted = [int(query_start[i + 1]) - 1 for i, row in enumerate(schedule.rows) if row.samples]
    logit_rows = np.zeros(padded_rows(len(wanted)), dtype=np.int64)
    logit_rows[: len(wanted)] = wanted
    return Batch(
        tokens=tokens,
        positions=positions,
        query_start=query_start.astype(np.int32),
        kv_lens=(computed + counts).astype(np.int32),
        block_tables=tables,
        slots=slots,
        logit_rows=logit_rows,
        num_logits=len(wanted),
        copies=np.array(schedule.copies, dtype=np.int64).reshape(-1, 2),
    )
