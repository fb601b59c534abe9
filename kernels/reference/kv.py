"""The paged KV cache as [blocks, block_size, K, D]: a slot is a row of the flattened first two dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import NULL_BLOCK, AttentionMeta, KVCache


def new_kv_cache(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> KVCache:
    shape = (num_blocks, block_size, num_kv_heads, head_dim)
    # Untouched pages of `empty` cost no memory until a block is used.
    cache = KVCache(torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device))
    cache.key[NULL_BLOCK].zero_()
    cache.value[NULL_BLOCK].zero_()
    return cache


def store_kv(key: Tensor, value: Tensor, cache: KVCache, meta: AttentionMeta) -> None:
    """Stores the first T rows of key and value [N, K, D] at `meta.slots`, rounded to the cache's dtype."""
    count = meta.slots.shape[0]
    cache.key.flatten(0, 1).index_copy_(0, meta.slots, key[:count].to(cache.key.dtype))
    cache.value.flatten(0, 1).index_copy_(0, meta.slots, value[:count].to(cache.value.dtype))


def copy_blocks(cache: KVCache, source: Tensor, target: Tensor) -> None:
    for tensor in cache:
        tensor.index_copy_(0, target, tensor.index_select(0, source))
