"""Rotary embedding: everything between the qkv projection and attention in one pass, head norm, rotation, cache."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import AttentionConfig, AttentionMeta, HeadNorm, KVCache, Rotation, Rows, ScaledRows
from .library import CACHE_DTYPES, DTYPES, function

_rope_and_store = function("infer_rope_and_store", "ppippppppippipiiiiiiiif")


def rope_and_store(
    qkv: Rows, rotation: Rotation | None, norm: HeadNorm | None, cache: KVCache, meta: AttentionMeta, config: AttentionConfig
) -> Tensor:
    x, scale = qkv if isinstance(qkv, ScaledRows) else (qkv, None)
    heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
    assert x.stride(1) == 1
    assert x.shape[1] == (heads + (1 if config.latent else 2) * kv_heads) * dim
    query = torch.empty((x.shape[0], heads, dim), dtype=x.dtype)
    positions, cos, sin = rotation or (None, None, None)
    norm_query, norm_key, eps = norm or (None, None, 0.0)
    _rope_and_store(
        *(x, scale, x.stride(0), positions, cos, sin, norm_query, norm_key, query, 0 if cos is None else cos.shape[1]),
        *(
            cache.key,
            None if config.latent else cache.value,
            meta.block_size,
            meta.slots,
            x.shape[0],
            meta.slots.shape[0],
            heads,
            kv_heads,
            dim,
        ),
        *(DTYPES[x.dtype], CACHE_DTYPES[cache.key.dtype], 0 if norm_query is None else DTYPES[norm_query.dtype], eps),
    )
    return query
