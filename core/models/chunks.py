"""A step as some layers see it: those that attend within chunks, and those that compute some of its rows alone."""

from __future__ import annotations

import torch
from torch import Tensor

from infer.kernels.ops import NULL_BLOCK, AttentionMeta


def narrowed(meta: AttentionMeta, positions: Tensor, rows: Tensor) -> AttentionMeta:
    """The step with each of `rows`, int64 [R], as a sequence of its own with one query token. Nothing can be stored with it.

    Args:
        positions: int64 [N], of all rows.
    """
    assert meta.spans is None, "layers that keep nothing are of models without spans"
    owner = torch.searchsorted(meta.query_start[1:].long(), rows, right=True).clamp_(max=len(meta.kv_lens) - 1)
    return AttentionMeta(
        query_start=torch.arange(len(rows) + 1, dtype=torch.int32, device=rows.device),
        kv_lens=(positions[rows] + 1).int(),
        block_tables=meta.block_tables[owner],
        slots=torch.zeros_like(rows),
        block_size=meta.block_size,
        adapters=None if meta.adapters is None else meta.adapters.chosen,
    )


def chunked(meta: AttentionMeta, chunk: int) -> AttentionMeta:
    """The step with each sequence cut at multiples of `chunk` positions: its pieces are sequences of their own, over the blocks of
    their chunk alone. What is stored goes where it went. `chunk` is a multiple of the block size.
    """
    places = meta.block_tables.shape[1]
    if places * meta.block_size <= chunk:
        return meta
    assert chunk % meta.block_size == 0, "checked as the model is loaded"
    assert meta.spans is None, "layers with chunks are of models without spans"
    device, blocks = meta.kv_lens.device, chunk // meta.block_size
    ends = meta.kv_lens.long()
    starts = ends - meta.query_start.diff()
    first = starts // chunk
    pieces = ((ends - 1).maximum(starts) // chunk) - first + 1
    owner = torch.repeat_interleave(torch.arange(len(ends), device=device), pieces)
    number = first[owner] + torch.arange(len(owner), device=device) - (pieces.cumsum(0) - pieces)[owner]
    stops = ends[owner].minimum((number + 1) * chunk)
    counts = stops - starts[owner].maximum(number * chunk)
    column = (number * blocks)[:, None] + torch.arange(min(blocks, places), device=device)
    tables = meta.block_tables[owner].gather(1, column.clamp(max=places - 1))
    return AttentionMeta(
        query_start=torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int(),
        kv_lens=(stops - number * chunk).int(),
        block_tables=tables.where(column < places, NULL_BLOCK).int(),
        slots=meta.slots,
        block_size=meta.block_size,
        adapters=meta.adapters,
    )
