"""The paged KV cache as [B, K, block_size, D]: the tokens of a block lie side by side for each head, as attention's tiles read them.

Blocks are copied by torch's own index operations, as integers whatever they hold, since float8 knows few operations.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..ops import NULL_BLOCK, KVCache
from .aot import Signature

__all__ = ["copy_blocks", "new_host_cache", "new_kv_cache", "swap_in", "swap_out"]


def new_kv_cache(num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> KVCache:
    shape = (num_blocks, num_kv_heads, block_size, head_dim)
    cache = KVCache(torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device))
    for tensor in cache:
        _as_words(tensor)[NULL_BLOCK].zero_()
    return cache


def copy_blocks(cache: KVCache, source: Tensor, target: Tensor) -> None:
    for tensor in cache:
        words = _as_words(tensor)
        words.index_copy_(0, target, words.index_select(0, source))


def new_host_cache(num_blocks: int, like: KVCache) -> KVCache:
    """Room in CPU memory for `num_blocks` blocks of a cache, of any content. Pinned if the cache is on a GPU: copies need not wait."""
    pinned = like.key.device.type == "cuda"
    return KVCache(*(torch.empty((num_blocks, *t.shape[1:]), dtype=t.dtype, pin_memory=pinned) for t in like))


def swap_out(cache: KVCache, host: KVCache, source: Tensor, target: Tensor) -> None:
    """Copies blocks source[i] of `cache` to blocks target[i] of `host`; source and target are int64 [C] on the CPU, targets distinct.

    Copies are queued on the current stream and may be under way when this returns: `host` is to be read, and the source blocks to be
    written by another stream, after an event or a synchronization only.
    """
    _swap(cache, host, source, target)


def swap_in(cache: KVCache, host: KVCache, source: Tensor, target: Tensor) -> None:
    """Copies blocks source[i] of `host` to blocks target[i] of `cache`, as `swap_out` does the other way."""
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


def _as_words(tensor: Tensor) -> Tensor:
    """[B, bytes of a block / 8] int64, or of narrower integers where that is no whole number."""
    size = tensor[0].nbytes
    word = next(t for t in (torch.int64, torch.int32, torch.int16, torch.uint8) if size % t.itemsize == 0)
    return tensor.view(tensor.shape[0], -1).view(torch.uint8).view(word)


def signatures() -> list[Signature]:
    """None: copies are torch's."""
    return []
