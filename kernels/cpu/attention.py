"""Paged attention: which rows go together, and the kernel's call. See src/attention.cpp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..ops import AttentionConfig, AttentionMeta, KVCache
from . import library

#: Rows (query tokens by heads of a group) of one item: what fits the L1 cache beside a tile of keys and values.
ITEM_ROWS = 48
#: Items for every thread, with all heads of a token together, from which work is even enough.
ITEMS_A_THREAD = 8
#: Heads of a latent that a thread takes together, at least.
LEAST_HEADS = 8

_attention = library.function("infer_attention", "ppppppp" + "ipi" + "iiiiii" + "ff" + "ppii")
_latent_attention = library.function("infer_latent_attention", "pppppp" + "ipii" + "iiiif" + "i")


@dataclass(slots=True)
class AttentionItems:
    items: Tensor
    """int32 [I, 3]: sequence, first of its query tokens, how many; most work first, so that threads end together."""
    heads_together: int
    """Key/value heads that one thread does one after another: all of them where there are items enough."""


def plan_attention(meta: AttentionMeta, num_heads: int, num_kv_heads: int) -> AttentionItems:
    tokens = max(1, ITEM_ROWS * num_kv_heads // num_heads)
    counts = np.diff(meta.query_start.numpy())
    parts = -(-counts // tokens)
    sequence = np.repeat(np.arange(len(counts), dtype=np.int32), parts)
    first = (np.arange(len(sequence)) - np.repeat(np.cumsum(parts) - parts, parts)) * tokens
    size = np.minimum(counts[sequence] - first, tokens)
    seen = meta.kv_lens.numpy()[sequence] - counts[sequence] + first + size
    order = np.argsort(-seen * size, kind="stable")
    items = np.stack([sequence, first, size], axis=1).astype(np.int32)[order]
    enough = len(items) >= ITEMS_A_THREAD * torch.get_num_threads()
    return AttentionItems(torch.from_numpy(items), num_kv_heads if enough else 1)


def attention(query: Tensor, cache: KVCache, meta: AttentionMeta, config: AttentionConfig) -> Tensor:
    plan: AttentionItems = meta.plan
    query = query.contiguous()
    total, width = meta.slots.shape[0], config.num_heads * config.value_dim
    out = query.new_empty(query.shape[0], width)
    out[total:].zero_()
    if config.latent:
        # A tile of latents is laid out for all heads of an item: these are shared among threads only where items are few.
        wanted = -(-ITEMS_A_THREAD * torch.get_num_threads() // max(1, len(plan.items)))
        _latent_attention(
            *(out, query, cache.key, meta.query_start, meta.kv_lens, meta.block_tables),
            *(meta.block_tables.stride(0), plan.items, len(plan.items), max(1, min(wanted, config.num_heads // LEAST_HEADS))),
            *(config.num_heads, config.head_dim, config.latent, meta.block_size, config.scale, library.DTYPES[query.dtype]),
        )
        return out
    _attention(
        *(out, query, cache.key, cache.value, meta.query_start, meta.kv_lens, meta.block_tables),
        *(meta.block_tables.stride(0), plan.items, len(plan.items)),
        *(plan.heads_together, config.num_heads, config.num_kv_heads, config.head_dim, meta.block_size, config.sliding_window or 0),
        *(config.scale, config.soft_cap or 0.0),
        *(config.alibi_slopes, config.sinks, library.DTYPES[query.dtype], library.CACHE_DTYPES[cache.key.dtype]),
    )
    return out
