"""The paged KV cache as the attention kernel reads it.

Keys are [B, K, D / 2, block_size, 2]: a bf16 dot product takes pairs of features, so one instruction covers as many tokens as it has
lanes, with no sums across them. An odd D is padded with a zero. Values are [B, K, block_size, D], in bf16 [B, K, block_size / 2, D, 2]:
pairs of tokens, for the same reason (where a block is one token, there are none).

Where values are parts of keys, these are rows [B, 1, block_size, D], and there are no values: see src/latent.cpp.

In int8 a block has for each head its tokens' codes and then their scales, see src/codes.h: both are bytes, [B, K, bytes of a head].
"""

from __future__ import annotations

import torch

from ..memory import use_large_pages
from ..ops import NULL_BLOCK, KVCache
from ..reference.kv import SCALE_BYTES, copy_blocks, new_host_cache, swap_in, swap_out

__all__ = ["copy_blocks", "kv_refusal", "new_host_cache", "new_kv_cache", "swap_in", "swap_out"]


def kv_refusal(dtype: torch.dtype) -> str:
    if dtype.itemsize > 1 or dtype == torch.int8:
        return ""
    return "the CPU kernels keep keys and values in the model's dtype or in int8; set int8, or use kernels=reference (slow)"


def new_kv_cache(
    num_blocks: int,
    block_size: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    latent: int = 0,
) -> KVCache:
    rows: tuple[int, ...] = (num_kv_heads, block_size, head_dim)
    pairs: tuple[int, ...] = (num_kv_heads, (head_dim + 1) // 2, block_size, 2)
    # Untouched pages of `empty` cost no memory until a block is used.
    if dtype == torch.bfloat16 and block_size % 2 == 0 and not latent:
        rows = (num_kv_heads, block_size // 2, head_dim, 2)
    if dtype == torch.int8:
        pairs = rows = (num_kv_heads, block_size * (-(-head_dim // 4) * 4 + SCALE_BYTES))
    key = torch.empty((num_blocks, *(rows if latent else pairs)), dtype=dtype, device=device)
    value = torch.empty((num_blocks, *((0,) if latent else rows)), dtype=dtype, device=device)
    for tensor in (key, value):
        use_large_pages(tensor)
    key[NULL_BLOCK].zero_()
    value[NULL_BLOCK].zero_()
    return KVCache(key, value)
