"""Rotary embedding: from a qkv projection to queries and cache, by head norm, rotation and storing."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import AttentionConfig, AttentionMeta, HeadNorm, KVCache, Rotation, Rows
from .kv import store_kv
from .norm import rms_normalized
from .quantize import to_float


def rope_and_store(
    qkv: Rows, rotation: Rotation | None, norm: HeadNorm | None, cache: KVCache, meta: AttentionMeta, config: AttentionConfig
) -> Tensor:
    x32, dtype = to_float(qkv)
    heads, kv_heads = config.num_heads, config.num_kv_heads
    parts = [heads, kv_heads, 0 if config.latent else kv_heads]
    query, key, value = x32.unflatten(-1, (sum(parts), config.head_dim)).split(parts, dim=1)
    if norm is not None:
        query, key = rms_normalized(query, norm.query, norm.eps), rms_normalized(key, norm.key, norm.eps)
    if rotation is not None:
        query, key = rotated(query, rotation), rotated(key, rotation)
    if kv_heads:
        store_kv(key, value, cache, meta)
    return query.to(dtype)


def rotated(x32: Tensor, rotation: Rotation) -> Tensor:
    """float32 [N, heads, D], halves paired (NeoX order)."""
    half = rotation.cos.shape[-1]
    c = rotation.cos[rotation.positions].unsqueeze(1)
    s = rotation.sin[rotation.positions].unsqueeze(1)
    first, second = x32[..., :half], x32[..., half : 2 * half]
    return torch.cat([first * c - second * s, second * c + first * s, x32[..., 2 * half :]], dim=-1)
