"""Prefixes that decodes of a step share: the same blocks at the same places of their tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class PrefixGroups(NamedTuple):
    """Groups of sequences; see `infer.kernels.ops.Prefixes`."""

    members: NDArray[np.int32]
    starts: NDArray[np.int32]
    lengths: NDArray[np.int32]
    shared: NDArray[np.int32]


def prefix_groups(
    tables: NDArray[np.int32], kv_lens: NDArray[np.int32], query_start: NDArray[np.int32], block_size: int, least: int
) -> PrefixGroups | None:
    """The groups of a step's decodes whose first `least` tokens or more are in the same blocks; None where there are none.

    A sequence is in one group at most: with those that it shares its first `least` tokens with, whatever some of them share beyond what
    all do. Costs a sort of one column where nothing is shared.
    """
    column = least // block_size - 1
    decodes = np.flatnonzero((np.diff(query_start) == 1) & (kv_lens > least))
    if len(decodes) < 2 or column >= tables.shape[1]:
        return None
    blocks = tables[decodes, column]
    order = np.argsort(blocks, kind="stable")
    ranked = blocks[order]
    borders = np.flatnonzero(np.diff(ranked)) + 1
    members, lengths = [], []
    shared = np.zeros(len(kv_lens), dtype=np.int32)
    for first, end in zip([0, *borders.tolist()], [*borders.tolist(), len(order)], strict=True):
        if end - first < 2:
            continue
        rows = decodes[order[first:end]]
        most = (int(kv_lens[rows].min()) - 1) // block_size  # a row's own token is behind what it shares
        same = (tables[rows, :most] == tables[rows[0], :most]).all(axis=0)
        count = (most if same.all() else int(np.argmin(same))) * block_size
        if count >= least:
            members.append(rows)
            lengths.append(count)
            shared[rows] = count
    if not members:
        return None
    starts = np.cumsum([0, *map(len, members)]).astype(np.int32)
    return PrefixGroups(np.concatenate(members).astype(np.int32), starts, np.array(lengths, dtype=np.int32), shared)
