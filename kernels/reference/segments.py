"""Attention within whole texts, in both directions: the tiles of attention.py, over keys and values that lie in the step's own rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import AttentionConfig, AttentionMeta, KVCache, PairBias, Rotation, Rows, Segments
from .attention import Tiles, attend, plan_tiles
from .quantize import to_float
from .rope import rotated


def plan_segments(segments: Segments, num_heads: int, num_kv_heads: int) -> Tiles:
    """The rows as a cache whose blocks hold one token: token row i is block i + 1, behind NULL_BLOCK."""
    starts = segments.starts
    lens = starts[1:] - starts[:-1]
    most = int(lens.max()) if len(lens) else 0
    tables = starts[:-1, None] + 1 + torch.arange(most, dtype=starts.dtype, device=starts.device)
    slots = torch.arange(1, int(starts[-1]) + 1, device=starts.device)
    meta = AttentionMeta(query_start=starts, kv_lens=lens, block_tables=tables, slots=slots, block_size=1)
    return plan_tiles(meta, num_heads // num_kv_heads, causal=False)


def segment_attention(
    qkv: Rows, rotation: Rotation | None, segments: Segments, config: AttentionConfig, bias: PairBias | None = None
) -> Tensor:
    x32, dtype = to_float(qkv)
    heads, kv_heads = config.num_heads, config.num_kv_heads
    query, key, value = x32.unflatten(-1, (heads + 2 * kv_heads, config.head_dim)).split([heads, kv_heads, kv_heads], dim=1)
    if rotation is not None:
        query, key = rotated(query, rotation), rotated(key, rotation)
    return attend(query.to(dtype), KVCache(_blocks(key, dtype), _blocks(value, dtype)), segments.plan, config, bias)


def _blocks(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """[N, K, D] -> [N + 1, 1, K, D] in `dtype`, the first block zeros."""
    return F.pad(rows.to(dtype), (0, 0, 0, 0, 1, 0)).unsqueeze(1)
