"""Prefixes that decodes of a step share: the same blocks at the same places of their tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Tokens that decodes share before it pays to say so: those of the first piece that Triton's kernels cut a context into.
SHARED_TOKENS = 128
#: The least part of a step's keys that has to be spared: in exchange all contexts go by in pieces. Reckoned, not measured.
SPARED = 0.25
#: Columns of tables that are compared at a time: what is alike is often short, and the tables are wide.
_COLUMNS = 64


class PrefixGroups(NamedTuple):
    """Groups of sequences; see `infer.kernels.ops.Prefixes`."""

    members: NDArray[np.int32]
    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    shared: NDArray[np.int32]


def prefix_groups(
    tables: NDArray[np.int32],
    kv_lens: NDArray[np.int32],
    query_start: NDArray[np.int32],
    block_size: int,
    least: int = SHARED_TOKENS,
    *,
    most: int | None = None,
    spared: float = SPARED,
) -> PrefixGroups | None:
    """The groups of a step's decodes whose first `least` tokens or more are in the same blocks; None where there are none.

    A sequence is in one group at most: with those that it shares its first `least` tokens with, whatever some of them share beyond what
    all do. Costs a sort of one column where nothing is shared.

    Args:
        most: groups; of more, those that spare most. None: any number.
        spared: None where less than this part of the decodes' keys is spared.
    """
    column = least // block_size - 1
    alone = query_start[1:] - query_start[:-1] == 1
    decodes = np.flatnonzero(alone & (kv_lens > least))
    if len(decodes) < 2 or column >= tables.shape[1]:
        return None
    blocks = tables[decodes, column]
    order = np.argsort(blocks, kind="stable")
    ranked = blocks[order]
    borders = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1
    if len(borders) == len(order) - 1:  # as in most steps of most jobs
        return None
    firsts = np.concatenate(([0], borders))
    sizes = np.concatenate((borders, [len(order)])) - firsts
    found = []
    for place in np.flatnonzero(sizes > 1).tolist():
        rows = decodes[order[firsts[place] : firsts[place] + sizes[place]]]
        longest = (int(kv_lens[rows].min()) - 1) // block_size  # a row's own token is behind what it shares
        length = _alike(tables, rows, longest) * block_size
        if length >= least:
            found.append((rows, length, (len(rows) - 1) * length))
    if most is not None and len(found) > most:
        found = sorted(found, key=lambda group: group[2], reverse=True)[:most]
    if not found or sum(gain for *_, gain in found) < spared * int(kv_lens[alone].sum()):
        return None
    shared = np.zeros(len(kv_lens), dtype=np.int32)
    for rows, length, _ in found:
        shared[rows] = length
    starts = np.cumsum([0, *(len(rows) for rows, *_ in found)]).astype(np.int32)
    members = np.concatenate([rows for rows, *_ in found]).astype(np.int32)
    return PrefixGroups(members, starts, np.array([length for _, length, _ in found], dtype=np.int32), shared)


def _alike(tables: NDArray[np.int32], rows: NDArray[np.int64], most: int) -> int:
    """The columns, up to `most`, before the first in which these rows differ."""
    for first in range(0, most, _COLUMNS):
        part = slice(first, min(first + _COLUMNS, most))
        same = (tables[rows, part] == tables[rows[0], part]).all(axis=0)
        if not same.all():
            return first + int(np.argmin(same))
    return most
