"""Paged attention: which rows go together, and the kernel's call. See src/attention.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops import AttentionConfig, AttentionMeta, KVCache
from . import library
from .threads import threads

#: Rows (query tokens by heads of a group) of one item: what fits the L1 cache beside a tile of keys and values.
ITEM_ROWS = 48
#: The same where that is work enough for all threads: long prompts read keys and values half as often, from caches that others use too.
LONG_ITEM_ROWS = 96
#: Items for every thread, with all heads of a token together, from which work is even enough.
ITEMS_A_THREAD = 8
#: Heads of a latent that a thread takes together, at least.
LEAST_HEADS = 8

_plan = library.function("infer_plan_attention", "pppp" + "pppp" + "iiiiii")
_attention = library.function("infer_attention", "pppppppp" + "ipppi" + "iiiiii" + "ff" + "pppiii")
_latent_attention = library.function("infer_latent_attention", "pppppp" + "ipii" + "iiiif" + "i")


@dataclass(slots=True)
class AttentionItems:
    """See src/attention_items.h."""

    members: Tensor
    """int32 [M, 3]: sequence, first of its query tokens, how many."""
    runs: Tensor
    """int32 [R, 4]: the members from one to before another that go together through the positions from one to before another."""
    items: Tensor
    """int32 [I, 4]: its members and its runs, likewise; most work first, so that threads end together."""
    heads_together: int
    """Key/value heads that one thread does one after another: all of them where there are items enough."""
    step: Any = None
    """What layer.py has prepared of the step."""


def plan_attention(meta: AttentionMeta, num_heads: int, num_kv_heads: int) -> AttentionItems:
    group, sequences, rows = num_heads // num_kv_heads, len(meta.kv_lens), len(meta.slots) * num_heads // num_kv_heads
    enough = ITEMS_A_THREAD * threads()
    item_rows = LONG_ITEM_ROWS if rows >= LONG_ITEM_ROWS * enough else ITEM_ROWS
    # Sequences that begin alike go together as long as that leaves work for all threads, if one head at a time.
    together = min(ITEM_ROWS, 2 * rows * num_kv_heads // enough)
    most = sequences + rows // (max(1, item_rows // group) * group)
    members, runs, items, counts = (torch.empty(shape, dtype=torch.int32) for shape in ((most, 3), (2 * most, 4), (most, 4), (3,)))
    _plan(
        *(members, runs, items, counts, meta.query_start, meta.kv_lens, meta.block_tables, meta.spans),
        *(meta.block_tables.stride(0), sequences, meta.block_size, group, item_rows, together),
    )
    num_items, num_runs, num_members = counts.tolist()
    return AttentionItems(members[:num_members], runs[:num_runs], items[:num_items], num_kv_heads if num_items >= enough else 1)


def attention(query: Tensor, cache: KVCache, meta: AttentionMeta, config: AttentionConfig) -> Tensor:
    plan: AttentionItems = meta.plan
    query = query.contiguous()
    total, width = meta.slots.shape[0], config.num_heads * config.value_dim
    out = query.new_empty(query.shape[0], width)
    out[total:].zero_()
    if config.latent:
        # A tile of latents is laid out for all heads of an item: these are shared among threads only where items are few.
        wanted = -(-ITEMS_A_THREAD * threads() // max(1, len(plan.members)))
        _latent_attention(
            *(out, query, cache.key, meta.query_start, meta.kv_lens, meta.block_tables),
            *(meta.block_tables.stride(0), plan.members, len(plan.members), max(1, min(wanted, config.num_heads // LEAST_HEADS))),
            *(config.num_heads, config.head_dim, config.latent, meta.block_size, config.scale, library.DTYPES[query.dtype]),
        )
        return out
    _attention(
        *(out, query, cache.key, cache.value, meta.query_start, meta.kv_lens, meta.block_tables, meta.spans),
        *(meta.block_tables.stride(0), plan.members, plan.runs, plan.items, len(plan.items)),
        *(plan.heads_together, config.num_heads, config.num_kv_heads, config.head_dim, meta.block_size, config.sliding_window or 0),
        *(config.scale, config.soft_cap or 0.0),
        *(config.alibi_slopes, config.sinks, config.distances, 0 if config.distances is None else config.distances.shape[1]),
        *(library.DTYPES[query.dtype], library.CACHE_DTYPES[cache.key.dtype]),
    )
    return out
