"""Attention on fixed tiles: 16 query rows by 64 keys, zero-padded and masked.

A matrix product of fixed shape gives a row the same bits wherever it stands, so cutting everything into equal tiles
makes attention independent of batch, chunking and prefix-cache hits. Rows are (token, head of the group) pairs, so
the heads that share keys fill a tile together. Key tiles start at multiples of 64 of the sequence and are visited in
order with a running softmax; a tile that is masked for a row leaves its state as it was.

Shapes: Q tiles, G = H / K heads a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import KEYS_AHEAD, NULL_BLOCK, AttentionConfig, AttentionMeta, KVCache, PairBias
from .kv import widened

ROWS = 16
KEYS = 64
#: Most float32 elements of one gathered key tile batch; bounds memory, changes no result.
GATHER_LIMIT = 1 << 23


@dataclass(slots=True)
class Tiles:
    """The step's query tiles, longest context first, so that the tiles with a key tile j are a prefix."""

    token: Tensor
    """int64 [Q, ROWS]: token row of each tile row; rows beyond the sequence's last repeat row 0."""
    group: Tensor
    """int64 [Q, ROWS]: head within the group."""
    position: Tensor
    """int64 [Q, ROWS]: the row's position; -1 for padding rows."""
    first: Tensor | None
    """int64 [Q, ROWS]: from here on a window hides nothing from the row; None: it hides all that is too far away."""
    last: Tensor
    """int64 [Q, ROWS]: the last position that the row may see; -1 for padding rows, which therefore see no key."""
    sequence: Tensor
    """int64 [Q]"""
    slots: Tensor
    """int64 [S, padded context]: cache slot of each position, the null block's past the end."""
    active: list[int]
    """The number of tiles that have key tile j."""


def plan_attention(meta: AttentionMeta, num_heads: int, num_kv_heads: int) -> Tiles:
    return plan_tiles(meta, num_heads // num_kv_heads, causal=True)


def plan_tiles(meta: AttentionMeta, group_size: int, *, causal: bool) -> Tiles:
    """`causal`: a row sees what is before it, else its whole sequence."""
    device = meta.query_start.device
    query_start = meta.query_start.long()
    kv_lens = meta.kv_lens.long()
    query_lens = query_start[1:] - query_start[:-1]
    rows = query_lens * group_size
    tiles = (rows + ROWS - 1) // ROWS
    sequence = torch.repeat_interleave(torch.arange(len(rows), device=device), tiles)
    first_tile = torch.cumsum(tiles, 0) - tiles
    row = (torch.arange(len(sequence), device=device) - first_tile[sequence])[:, None] * ROWS + torch.arange(ROWS, device=device)
    real = row < rows[sequence][:, None]
    row = torch.where(real, row, 0)
    local = row // group_size
    position = torch.where(real, (kv_lens - query_lens)[sequence][:, None] + local, -1)
    token = query_start[sequence][:, None] + local
    last, first = position if causal else torch.where(real, kv_lens[sequence][:, None] - 1, -1), None
    if meta.spans is not None:
        spans = meta.spans.long()
        first, last = spans[token, 0], torch.where(real, spans[token, 1], -1)

    context = last.amax(-1) + 1
    order = torch.argsort(context, descending=True, stable=True)
    key_tiles = ((context[order] + KEYS - 1) // KEYS).tolist()
    most = key_tiles[0] if key_tiles else 0
    active = [0] * most
    for count in key_tiles:
        for j in range(count):
            active[j] += 1
    slots = _slot_map(meta, kv_lens, most * KEYS)
    first = None if first is None else first[order]
    return Tiles(token[order], (row % group_size)[order], position[order], first, last[order], sequence[order], slots, active)


def _slot_map(meta: AttentionMeta, kv_lens: Tensor, length: int) -> Tensor:
    positions = torch.arange(length, device=kv_lens.device)
    block = torch.clamp(positions // meta.block_size, max=meta.block_tables.shape[1] - 1)
    slots = meta.block_tables.long()[:, block] * meta.block_size + positions % meta.block_size
    return torch.where(positions < kv_lens[:, None], slots, NULL_BLOCK * meta.block_size)


def attention(query: Tensor, cache: KVCache, meta: AttentionMeta, config: AttentionConfig) -> Tensor:
    if config.latent:
        cache = KVCache(cache.key, cache.key[..., -config.latent :])
    return attend(query, cache, meta.plan, config)


def attend(query: Tensor, cache: KVCache, plan: Tiles, config: AttentionConfig, bias: PairBias | None = None) -> Tensor:
    """Attention of query [N, H, D] along the plan's tiles -> [N, H * config.value_dim]; rows in no tile are zero."""
    step = max(1, GATHER_LIMIT // (config.num_kv_heads * KEYS * config.head_dim))
    out = query.new_zeros(*query.shape[:2], config.value_dim)
    for start in range(0, len(plan.sequence), step):
        _attend(query, cache, plan, slice(start, start + step), config, bias, out)
    return out.flatten(1)


def _attend(query: Tensor, cache: KVCache, plan: Tiles, part: slice, config: AttentionConfig, bias: PairBias | None, out: Tensor) -> None:
    """Attention of the tiles in `part`, written to their rows of `out`."""
    num_kv_heads, head_dim = config.num_kv_heads, config.head_dim
    token, group, position, last = plan.token[part], plan.group[part], plan.position[part], plan.last[part]
    count = len(token)
    grouped = query.unflatten(1, (num_kv_heads, -1))
    q = grouped[token, :, group].float() * config.scale  # [Q, ROWS, K, D]
    q = q.permute(0, 2, 1, 3).reshape(count * num_kv_heads, ROWS, head_dim)

    best = q.new_full((count * num_kv_heads, ROWS, 1), float("-inf"))
    total = torch.zeros_like(best)
    acc = q.new_zeros(*q.shape[:2], config.value_dim)
    for j, active in enumerate(plan.active):
        n = min(active - part.start, count)
        if n <= 0:
            break
        slots = plan.slots[plan.sequence[part][:n], j * KEYS : (j + 1) * KEYS]
        key_position = torch.arange(j * KEYS, (j + 1) * KEYS, device=query.device)
        m = n * num_kv_heads
        scores = torch.bmm(q[:m], _gather(cache.key, slots).transpose(1, 2)).unflatten(0, (n, num_kv_heads))
        if config.soft_cap:
            scores = torch.tanh(scores / config.soft_cap) * config.soft_cap
        if config.alibi_slopes is not None:
            distance = (key_position - position[:n, :, None]).abs()[:, None]  # [n, 1, ROWS, KEYS]
            scores = scores - _by_head(config.alibi_slopes, num_kv_heads, group[:n]) * distance
        seen = key_position <= last[:n, :, None]
        if config.distances is not None:
            offsets = (key_position - position[:n, :, None]).clamp(max=0)[:, None]  # [n, 1, ROWS, KEYS]
            heads = torch.arange(num_kv_heads, device=query.device)[:, None] * grouped.shape[2] + group[:n, None]  # [n, K, ROWS]
            scores = scores + config.distances[heads[..., None], config.distances.shape[1] - KEYS_AHEAD - 1 + offsets]
        if bias is not None:
            heads = torch.arange(num_kv_heads, device=query.device)[:, None] * grouped.shape[2] + group[:n, None]  # [n, K, ROWS]
            at, of_head, of_row = (x[:, None, None] for x in bias.places[plan.sequence[part][:n]].unbind(1))
            rows = at + heads * of_head + position[:n, None] * of_row
            scores = scores + bias.values[(rows[..., None] + key_position).where(seen[:, None], 0)]
        if config.sliding_window is not None:
            near = (key_position - position[:n, :, None]).abs() < config.sliding_window
            if plan.first is not None:
                near |= key_position >= plan.first[part][:n, :, None]
            seen &= near
        scores = scores.masked_fill_(~seen[:, None], float("-inf")).flatten(0, 1)
        new_best = torch.maximum(best[:m], scores.amax(-1, keepdim=True))
        # Rows that have seen no key yet keep -inf; 0 stands in so that no -inf - -inf arises.
        pivot = new_best.masked_fill(new_best == float("-inf"), 0.0)
        shrink = torch.exp(best[:m] - pivot)
        weights = torch.exp(scores - pivot)
        total[:m] = total[:m] * shrink + weights.sum(-1, keepdim=True)
        acc[:m] = acc[:m] * shrink + torch.bmm(weights, _gather(cache.value, slots))
        best[:m] = new_best

    if config.sinks is not None:
        total = total + torch.exp(_by_head(config.sinks, num_kv_heads, group).flatten(0, 1) - best)
    result = (acc / total).unflatten(0, (count, num_kv_heads)).permute(0, 2, 1, 3).to(out.dtype)
    real = position >= 0
    out.unflatten(1, (num_kv_heads, -1))[token[real], :, group[real]] = result[real]


def _by_head(values: Tensor, num_kv_heads: int, group: Tensor) -> Tensor:
    """[H] values for the heads of tile rows, by group [n, ROWS] -> [n, K, ROWS, 1]."""
    return values.unflatten(0, (num_kv_heads, -1))[:, group].permute(1, 0, 2)[..., None]


def _gather(cache: Tensor, slots: Tensor) -> Tensor:
    """[n, KEYS] slots -> float32 [n * K, KEYS, D]."""
    return widened(cache.flatten(0, 1)[slots]).permute(0, 2, 1, 3).flatten(0, 1).contiguous()
