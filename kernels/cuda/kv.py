"""The paged KV cache as [B, K, block_size, D]: the tokens of a block lie side by side for each head, as attention's tiles read them.

Blocks are copied by torch's own index operations, as integers whatever they hold, since float8 knows few operations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import NULL_BLOCK, KVCache
from ..reference.kv import new_host_cache, swap_in, swap_out
from .signature import Signature

__all__ = ["copy_blocks", "kv_refusal", "new_host_cache", "new_kv_cache", "swap_in", "swap_out"]


def kv_refusal(dtype: torch.dtype) -> str:
    if dtype != torch.int8:
        return ""
    return "the GPU kernels keep keys and values in the model's dtype or in float8; set fp8"


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
    shape = (num_blocks, num_kv_heads, block_size, head_dim)
    shapes = (shape, (num_blocks, 0) if latent else shape)
    cache = KVCache(*(torch.empty(shape, dtype=dtype, device=device) for shape in shapes))
    for tensor in _filled(cache):
        _as_words(tensor)[NULL_BLOCK].zero_()
    return cache


def copy_blocks(cache: KVCache, source: Tensor, target: Tensor) -> None:
    for tensor in _filled(cache):
        words = _as_words(tensor)
        words.index_copy_(0, target, words.index_select(0, source))


def _filled(cache: KVCache) -> list[Tensor]:
    """Its tensors that have elements."""
    return [tensor for tensor in cache if tensor.shape[1]]


def _as_words(tensor: Tensor) -> Tensor:
    """[B, bytes of a block / 8] int64, or of narrower integers where that is no whole number."""
    size = tensor[0].nbytes
    word = next(t for t in (torch.int64, torch.int32, torch.int16, torch.uint8) if size % t.itemsize == 0)
    return tensor.view(tensor.shape[0], -1).view(torch.uint8).view(word)


def signatures() -> list[Signature]:
    """None: copies are torch's."""
    return []
