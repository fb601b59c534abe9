"""Rotary embedding: everything between the qkv projection and attention in one pass, head norm, rotation, cache."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..ops import AttentionConfig, AttentionMeta, HeadNorm, KVCache, Rotation, Rows, ScaledRows
from .configs import cdiv, next_power_of_2
from .narrow import readable, store_as
from .signature import ALL, TARGETS, Signature

#: Elements of a program's tile: heads of one token, as many as fit.
ELEMENTS = 2048


@triton.jit
def _load_part(x, scale, head, offset, WIDTH: tl.constexpr, PAD: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr):
    """float32 [heads, PAD]: features [offset, offset + WIDTH) of the heads, 0 beyond them."""
    i = tl.arange(0, PAD)
    mask = (head < HEADS)[:, None] & (i < WIDTH)[None, :]
    return tl.load(x + (head * D)[:, None] + (offset + i)[None, :], mask=mask, other=0).to(tl.float32) * scale


@triton.jit
def _norm_part(
    part, factor, head, offset, norm_query, norm_key, WIDTH: tl.constexpr, PAD: tl.constexpr, QUERIES: tl.constexpr, TURNED: tl.constexpr
):
    """Query and key heads times the row's factor and their weight; values as they are."""
    i = tl.arange(0, PAD)
    weight_query = tl.load(norm_query + offset + i, mask=i < WIDTH, other=0).to(tl.float32)
    weight_key = tl.load(norm_key + offset + i, mask=i < WIDTH, other=0).to(tl.float32)
    weight = tl.where((head < QUERIES)[:, None], weight_query[None, :], weight_key[None, :])
    return tl.where((head < TURNED)[:, None], part * factor[:, None] * weight, part)


@triton.jit
def _store_part(
    part, head, offset, row, out, key, value, place, stored, block_stride, head_stride,
    WIDTH: tl.constexpr, PAD: tl.constexpr, QUERIES: tl.constexpr, TURNED: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,
    PAGED: tl.constexpr,
):  # fmt: skip
    """Queries go to `out` and the others to the cache; where there is none, all go to `out`."""
    i = tl.arange(0, PAD)
    real = (i < WIDTH)[None, :]
    if PAGED:
        at = row.to(tl.int64) * (QUERIES * D) + head * D + offset
        store_as(out + at[:, None] + i[None, :], part, (head < QUERIES)[:, None] & real)
        is_key = (head >= tl.where(stored, QUERIES, HEADS)) & (head < TURNED)
        is_value = (head >= tl.where(stored, TURNED, HEADS)) & (head < HEADS)
        store_as(key + (place + (head - QUERIES) * head_stride + offset)[:, None] + i[None, :], part, is_key[:, None] & real)
        store_as(value + (place + (head - TURNED) * head_stride + offset)[:, None] + i[None, :], part, is_value[:, None] & real)
    else:
        at = row.to(tl.int64) * (HEADS * D) + head * D + offset
        store_as(out + at[:, None] + i[None, :], part, (head < HEADS)[:, None] & real)


@triton.jit(do_not_specialize=["num_slots"])
def rotate(
    out, key, value, x, scales, positions, cos, sin, norm_query, norm_key, slots, x_stride, num_slots, eps,
    QUERIES: tl.constexpr, KV_HEADS: tl.constexpr, VALUES: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr, HALF_PAD: tl.constexpr,
    REST: tl.constexpr, REST_PAD: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr,
    SCALED: tl.constexpr, NORMED: tl.constexpr, PAGED: tl.constexpr,
):  # fmt: skip
    """Grid (rows, heads by TILE). A head is two halves of HALF features that turn with each other, and REST that stay. VALUES heads of
    values are there: KV_HEADS of them, or none."""
    TURNED: tl.constexpr = QUERIES + KV_HEADS
    HEADS: tl.constexpr = QUERIES + KV_HEADS + VALUES
    row = tl.program_id(0)
    head = tl.program_id(1) * TILE + tl.arange(0, TILE)
    x += row.to(tl.int64) * x_stride
    scale = 1.0
    if SCALED:
        scale = tl.load(scales + row)
    square = tl.zeros((TILE,), tl.float32)
    if HALF > 0:
        first = _load_part(x, scale, head, 0, HALF, HALF_PAD, HEADS, D)
        second = _load_part(x, scale, head, HALF, HALF, HALF_PAD, HEADS, D)
        square += tl.sum(first * first, 1) + tl.sum(second * second, 1)
    if REST > 0:
        rest = _load_part(x, scale, head, 2 * HALF, REST, REST_PAD, HEADS, D)
        square += tl.sum(rest * rest, 1)
    if NORMED:
        factor = tl.rsqrt(square / D + eps)
        if HALF > 0:
            first = _norm_part(first, factor, head, 0, norm_query, norm_key, HALF, HALF_PAD, QUERIES, TURNED)
            second = _norm_part(second, factor, head, HALF, norm_query, norm_key, HALF, HALF_PAD, QUERIES, TURNED)
        if REST > 0:
            rest = _norm_part(rest, factor, head, 2 * HALF, norm_query, norm_key, REST, REST_PAD, QUERIES, TURNED)

    place = tl.zeros((), tl.int64)
    stored = row < num_slots
    block_stride = KV_HEADS * BLOCK_SIZE * D
    head_stride = BLOCK_SIZE * D
    if PAGED:
        slot = tl.load(slots + row, mask=stored, other=-1)
        stored = slot >= 0
        slot = tl.maximum(slot, 0)
        place = slot // BLOCK_SIZE * block_stride + slot % BLOCK_SIZE * D
    if HALF > 0:
        i = tl.arange(0, HALF_PAD)
        angle = tl.load(positions + row) * HALF + i
        c = tl.load(cos + angle, mask=i < HALF, other=0)[None, :]
        s = tl.load(sin + angle, mask=i < HALF, other=0)[None, :]
        turns = (head < TURNED)[:, None]
        a = tl.where(turns, first * c - second * s, first)
        b = tl.where(turns, second * c + first * s, second)
        _store_part(a, head, 0, row, out, key, value, place, stored, block_stride, head_stride,
                    HALF, HALF_PAD, QUERIES, TURNED, HEADS, D, PAGED)  # fmt: skip
        _store_part(b, head, HALF, row, out, key, value, place, stored, block_stride, head_stride,
                    HALF, HALF_PAD, QUERIES, TURNED, HEADS, D, PAGED)  # fmt: skip
    if REST > 0:
        _store_part(rest, head, 2 * HALF, row, out, key, value, place, stored, block_stride, head_stride,
                    REST, REST_PAD, QUERIES, TURNED, HEADS, D, PAGED)  # fmt: skip


def rope_and_store(
    qkv: Rows, rotation: Rotation | None, norm: HeadNorm | None, cache: KVCache, meta: AttentionMeta, config: AttentionConfig
) -> Tensor:
    """As the protocol says. A row whose slot is negative stores nothing. A float8 cache takes what it cannot hold as its largest number."""
    x = qkv.values if isinstance(qkv, ScaledRows) else qkv
    query = x.new_empty(x.shape[0], config.num_heads, config.head_dim)
    _rotate(query, qkv, rotation, norm, (cache, meta), config)
    return query


def rotated(qkv: Rows, rotation: Rotation | None, config: AttentionConfig) -> Tensor:
    """qkv [N, (H + 2K) * D] with rotated queries and keys, rounded to the model's dtype: qkv itself where nothing is to be done."""
    if rotation is None and not isinstance(qkv, ScaledRows):
        return qkv
    x = qkv.values if isinstance(qkv, ScaledRows) else qkv
    out = x.new_empty(x.shape)
    _rotate(out, qkv, rotation, None, None, config)
    return out


def _rotate(
    out: Tensor,
    qkv: Rows,
    rotation: Rotation | None,
    norm: HeadNorm | None,
    paged: tuple[KVCache, AttentionMeta] | None,
    config: AttentionConfig,
) -> None:
    x, scales = qkv if isinstance(qkv, ScaledRows) else (qkv, None)
    values, dim = 0 if config.latent else config.num_kv_heads, config.head_dim
    heads = config.num_heads + config.num_kv_heads + values
    assert x.stride(1) == 1
    assert x.shape[1] == heads * dim
    if not len(x):
        return
    positions, cos, sin = rotation or (x, x, x)
    norm_query, norm_key, eps = norm or (x, x, 0.0)
    key, value, slots = (readable(paged[0].key), readable(paged[0].value), paged[1].slots) if paged else (x, x, x)
    constants = head_parts(dim, cos.shape[1] if rotation else 0)
    tile = min(next_power_of_2(heads), max(1, ELEMENTS // next_power_of_2(dim)))
    rotate[(len(x), cdiv(heads, tile))](
        *(out, key, value, x, x if scales is None else scales, positions, cos, sin, norm_query, norm_key, slots),
        *(x.stride(0), slots.shape[0], eps),
        QUERIES=config.num_heads,
        KV_HEADS=config.num_kv_heads,
        VALUES=values,
        **constants,
        BLOCK_SIZE=paged[1].block_size if paged else 1,
        TILE=tile,
        SCALED=scales is not None,
        NORMED=norm is not None,
        PAGED=paged is not None,
        num_warps=4,
        enable_fp_fusion=False,
    )


def head_parts(dim: int, half: int) -> dict[str, int]:
    """Constants of a head of `dim` features of which 2 * `half` turn."""
    rest = dim - 2 * half
    assert rest >= 0
    return {
        "D": dim,
        "HALF": half,
        "HALF_PAD": next_power_of_2(max(half, 1)),
        "REST": rest,
        "REST_PAD": next_power_of_2(max(rest, 1)),
    }


def signatures() -> list[Signature]:
    """With and without a cache, head norm and scales; caches of float8 by their bits too."""
    converting = tuple(target.name for target in TARGETS if target.converts_e4m3)
    return [
        _signature("store bf16", "*bf16", "*bf16", 128, 64),
        _signature("norm store bf16", "*bf16", "*bf16", 128, 64, NORMED=True),
        _signature("scaled store fp16", "*fp16", "*fp16", 80, 16, SCALED=True),
        _signature("store fp8e4nv", "*bf16", "*fp8e4nv", 128, 64, targets=converting),
        _signature("store fp8e4nv by bits", "*bf16", "*u8", 128, 64, targets=tuple(t for t in ALL if t not in converting)),
        _signature("store fp8e5", "*fp16", "*fp8e5", 128, 64),
        _signature("store fp32", "*fp32", "*fp32", 64, 32),
        _signature("rotate bf16", "*bf16", "*bf16", 64, 32, PAGED=False),
    ]


def _signature(name: str, rows: str, cache: str, dim: int, half: int, *, targets: tuple[str, ...] = ALL, **more: bool) -> Signature:
    types = dict.fromkeys(("out", "x", "norm_query", "norm_key"), rows) | {"key": cache, "value": cache, "scales": "*fp32"}
    types |= {"positions": "*i64", "slots": "*i64", "cos": "*fp32", "sin": "*fp32", "x_stride": "i32:16", "num_slots": "i32", "eps": "fp32"}
    constants = {"QUERIES": 32, "KV_HEADS": 8, "VALUES": 8, "BLOCK_SIZE": 16, "TILE": ELEMENTS // next_power_of_2(dim)} | head_parts(
        dim, half
    )
    constants |= {"SCALED": False, "NORMED": False, "PAGED": True} | more
    return Signature(rotate, f"rotate {name}", types, constants, targets=targets)
