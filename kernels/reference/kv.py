"""The paged KV cache as [blocks, block_size, K, D]: a slot is a row of the flattened first two dimensions.

In int8 a token's head has D codes and then the four bytes of its scale, a float32: the last dimension is D + SCALE_BYTES.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..ops import INT8_ZERO, NULL_BLOCK, AttentionMeta, KVCache
from .quantize import quantize

#: Of a head of one token in an int8 cache, beside its codes.
SCALE_BYTES = 4


def kv_refusal(dtype: torch.dtype) -> str:
    return ""


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
    width = head_dim + (SCALE_BYTES if dtype == torch.int8 else 0)
    # Untouched pages of `empty` cost no memory until a block is used.
    cache = KVCache(
        *(
            torch.empty((num_blocks, block_size, heads, width), dtype=dtype, device=device)
            for heads in (num_kv_heads, 0 if latent else num_kv_heads)
        )
    )
    cache.key[NULL_BLOCK].zero_()
    cache.value[NULL_BLOCK].zero_()
    return cache


def store_kv(key: Tensor, value: Tensor, cache: KVCache, meta: AttentionMeta) -> None:
    """Stores the first T rows of key and value [N, K, D] at `meta.slots`, rounded to the cache's dtype."""
    count = meta.slots.shape[0]
    for tensor, rows in zip(cache, (key, value), strict=True):
        _movable(tensor).flatten(0, 1).index_copy_(0, meta.slots, _movable(narrowed(rows[:count], tensor.dtype)))


def narrowed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x rounded to `dtype`; what float8 cannot hold becomes its largest number, and NaN stays NaN. int8: with its scales, see above."""
    if dtype.itemsize > 1:
        return x.to(dtype)
    if dtype == torch.int8:
        codes, scale = quantize(x)
        return torch.cat([(codes.short() - INT8_ZERO).to(torch.int8), scale[..., None].view(torch.int8)], -1)
    most = torch.finfo(dtype).max
    return x.clamp(-most, most).to(dtype)


def widened(stored: Tensor) -> Tensor:
    """float32 keys or values [..., D], of what `narrowed` made of them."""
    if stored.dtype != torch.int8:
        return stored.float()
    return stored[..., :-SCALE_BYTES].float() * stored[..., -SCALE_BYTES:].clone(memory_format=torch.contiguous_format).view(torch.float32)


def _movable(tensor: Tensor) -> Tensor:
    """The tensor as its bytes where it is of float8, which knows few operations."""
    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor


def copy_blocks(cache: KVCache, source: Tensor, target: Tensor) -> None:
    for tensor in map(_movable, cache):
        tensor.index_copy_(0, target, tensor.index_select(0, source))


def new_host_cache(num_blocks: int, like: KVCache) -> KVCache:
    # Of any layout that has blocks in its first dimension, here and below. Copies from and to pinned memory need not wait.
    pinned = like.key.device.type == "cuda"
    return KVCache(*(torch.empty((num_blocks, *t.shape[1:]), dtype=t.dtype, pin_memory=pinned) for t in like))


def swap_out(cache: KVCache, host: KVCache, source: Tensor, target: Tensor) -> None:
    _swap(cache, host, source, target)


def swap_in(cache: KVCache, host: KVCache, source: Tensor, target: Tensor) -> None:
    _swap(host, cache, source, target)


def _swap(giver: KVCache, taker: KVCache, source: Tensor, target: Tensor) -> None:
    runs = list(_runs(source.tolist(), target.tolist()))
    for mine, other in zip(giver, taker, strict=True):
        for first, to, count in runs:
            other[to : to + count].copy_(mine[first : first + count], non_blocking=True)


def _runs(source: list[int], target: list[int]) -> Iterator[tuple[int, int, int]]:
    """(first source, first target, blocks) of the stretches in which both count up: each is one copy."""
    start = 0
    for i in range(1, len(source) + 1):
        if i == len(source) or source[i] != source[i - 1] + 1 or target[i] != target[i - 1] + 1:
            yield source[start], target[start], i - start
            start = i
