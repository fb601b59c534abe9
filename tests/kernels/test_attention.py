"""Paged attention of every backend against plain formulas in float64, and to the bit in any company, chunking and order."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.kernels.ops import KEYS_AHEAD, NULL_BLOCK, ROW_MULTIPLE, AttentionConfig, AttentionMeta, KVCache, Ops
from infer.kernels.reference.kv import narrowed, widened

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 1e-2},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
}
#: (query length, context length) of the sequences in most tests: decodes, prefills and chunks around the tile borders.
LENGTHS = [(1, 1), (1, 64), (1, 65), (17, 17), (70, 200), (5, 300), (130, 130), (1, 191), (16, 129)]
#: For contexts of up to 300 tokens; what queries must not see is NaN.
DISTANCES = torch.cat([torch.linspace(-4, 4, 6 * 300).view(6, 300).sin(), torch.full((6, KEYS_AHEAD), math.nan)], 1)


@pytest.fixture(params=kernels.usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return kernels.load(request.param)


class Spans(NamedTuple):
    """Runs of tokens of each sequence that see each other in both directions; `windowed`: as far back as a window lets them."""

    of: list[list[tuple[int, int]]]
    windowed: bool


class Paged:
    """Random sequences in shuffled blocks of a cache whose every other slot is NaN. `kept`: the cache's dtype, if it is not the rows'."""

    def __init__(
        self,
        ops: Ops,
        lengths: list[tuple[int, int]],
        config: AttentionConfig,
        block_size: int,
        dtype: torch.dtype,
        kept: torch.dtype | None = None,
        spans: Spans | None = None,
    ) -> None:
        self.spans = spans
        g = torch.Generator().manual_seed(config.num_heads)
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        most = max(-(-context // block_size) for _, context in lengths)
        self.ops, self.lengths, self.config, self.block_size = ops, lengths, config, block_size
        self.cache: KVCache = ops.new_kv_cache(
            len(lengths) * most + 1, block_size, kv_heads, dim, kept or dtype, torch.device("cpu"), latent=config.latent
        )
        for part in self.cache:
            part.view(torch.uint8)[1:] = 0xFF  # NaN in every type, scales included
        self.keys = [torch.randn(c, kv_heads, dim, generator=g).to(dtype) for _, c in lengths]
        self.values = [torch.randn(c, kv_heads, dim, generator=g).to(dtype) for _, c in lengths]
        if config.latent:
            self.values = [keys[:, :, -config.latent :] for keys in self.keys]
        self.queries = [torch.randn(q, heads, dim, generator=g).to(dtype) for q, _ in lengths]
        self.blocks = torch.randperm(len(lengths) * most, generator=g).view(len(lengths), most).int() + 1
        for i, (_, context) in enumerate(lengths):
            self.blocks[i, -(-context // block_size) :] = NULL_BLOCK
            p = torch.arange(context)
            slots = self.blocks[i, p // block_size].long() * block_size + p % block_size
            parts = [torch.zeros(context, heads * dim, dtype=dtype), self.keys[i].flatten(1), self.values[i].flatten(1)]
            qkv = torch.cat(parts[:2] if config.latent else parts, 1)
            qkv = torch.cat([qkv, qkv.new_full((-context % ROW_MULTIPLE, qkv.shape[1]), 7.0)])
            ops.rope_and_store(qkv, None, None, self.cache, self.meta([i], [(context, context)], slots), config)
        if kept is not None:  # what the formula is about
            self.keys, self.values = ([widened(narrowed(x.float(), kept)) for x in part] for part in (self.keys, self.values))

    def meta(self, which: list[int], lengths: list[tuple[int, int]], slots: Tensor) -> AttentionMeta:
        starts = torch.tensor([0, *torch.tensor([q for q, _ in lengths]).cumsum(0).tolist()], dtype=torch.int32)
        contexts = torch.tensor([c for _, c in lengths], dtype=torch.int32)
        meta = AttentionMeta(starts, contexts, self.blocks[which], slots, self.block_size)
        if self.spans is not None:
            meta.spans = torch.cat([self.seen(i, c - q, c) for i, (q, c) in zip(which, lengths, strict=True)])
        return meta

    def seen(self, i: int, start: int, stop: int) -> Tensor:
        """int32 [tokens, 2]: what tokens of sequence i see beside what causal ones do."""
        assert self.spans is not None
        found = torch.arange(start, stop, dtype=torch.int32).repeat(2, 1).T.contiguous()
        for a, b in self.spans.of[i]:
            inside = slice(max(a - start, 0), max(b - start, 0))
            found[inside, 1] = b - 1
            if not self.spans.windowed:
                found[inside, 0] = a
        return found

    def attend(self, which: list[int], parts: list[tuple[int, int]] | None = None, *, strided: bool = False) -> Tensor:
        """The rows of sequences `which`; of each only its query rows from parts[i][0] to parts[i][1], if given."""
        parts = parts or [(0, self.lengths[i][0]) for i in which]
        rows = torch.cat([self.queries[i][a:b] for i, (a, b) in zip(which, parts, strict=True)])
        lengths = [(b - a, self.lengths[i][1] - self.lengths[i][0] + b) for i, (a, b) in zip(which, parts, strict=True)]
        total = len(rows)
        rows = torch.cat([rows, rows.new_zeros(-total % ROW_MULTIPLE, *rows.shape[1:])])
        meta = self.meta(which, lengths, torch.zeros(total, dtype=torch.int64))
        if strided:
            wide = torch.full((len(which), meta.block_tables.shape[1] + 5), 10**6, dtype=torch.int32)
            wide[:, : meta.block_tables.shape[1]] = meta.block_tables
            meta.block_tables = wide[:, : meta.block_tables.shape[1]]
        meta.plan = self.ops.plan_attention(meta, self.config.num_heads, self.config.num_kv_heads)
        out = self.ops.attention(rows, self.cache, meta, self.config)
        assert out.dtype == rows.dtype
        assert out.shape == (len(rows), self.config.num_heads * self.config.value_dim)
        assert not out[total:].any()
        return out[:total].view(total, self.config.num_heads, self.config.value_dim)

    def expected(self, i: int) -> Tensor:
        """Sequence i by the formula, in float64."""
        c, (query_len, context) = self.config, self.lengths[i]
        group = c.num_heads // c.num_kv_heads
        k, v = (x[i].double().repeat_interleave(group, 1) for x in (self.keys, self.values))
        scores = torch.einsum("qhd,khd->hqk", self.queries[i].double(), k) * c.scale
        if c.soft_cap:
            scores = torch.tanh(scores / c.soft_cap) * c.soft_cap
        position, key_position = torch.arange(context - query_len, context)[:, None], torch.arange(context)
        if c.alibi_slopes is not None:
            scores = scores + c.alibi_slopes.double()[:, None, None] * (key_position - position)
        if c.distances is not None:
            scores = scores + c.distances.double()[:, c.distances.shape[1] - KEYS_AHEAD - 1 + (key_position - position).clamp(max=0)]
        seen = key_position <= position
        near = key_position > position - (c.sliding_window or context)
        if self.spans is not None:
            inside = torch.full((context,), -1)
            for number, (a, b) in enumerate(self.spans.of[i]):
                inside[a:b] = number
            together = (inside[position] == inside) & (inside >= 0)
            seen, near = seen | together, near if self.spans.windowed else near | together
        seen &= near
        scores = scores.masked_fill(~seen, -math.inf)
        if c.sinks is not None:
            sinks = c.sinks.double()[:, None, None].expand(-1, query_len, 1)
            scores = torch.cat([scores, sinks], -1)
            v = torch.cat([v, torch.zeros_like(v[:1])])
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).to(self.queries[i].dtype)


def config(heads: int = 9, kv_heads: int = 3, dim: int = 64, **more: Any) -> AttentionConfig:
    return AttentionConfig(heads, kv_heads, dim, 0.3, **more)


def check(paged: Paged, dtype: torch.dtype, **tolerance: float) -> None:
    """Every sequence against the formula, alone and among the others."""
    whole = paged.attend(list(range(len(paged.lengths))))
    row = 0
    for i, (query_len, _) in enumerate(paged.lengths):
        mine = whole[row : row + query_len]
        torch.testing.assert_close(mine, paged.expected(i), **tolerance or TOLERANCE[dtype])
        assert torch.equal(paged.attend([i]), mine)
        row += query_len


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (4, 4, 16), (8, 1, 20), (5, 5, 128), (7, 1, 33), (2, 1, 80)])
@pytest.mark.parametrize(("block_size", "window"), [(16, None), (1, None), (32, 50), (8, 1), (128, 70)])
def test_against_the_formula(
    ops: Ops, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, block_size: int, window: int | None
) -> None:
    check(Paged(ops, LENGTHS, config(heads, kv_heads, dim, sliding_window=window), block_size, dtype), dtype)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize(
    "more",
    [
        {"soft_cap": 2.0},
        {"alibi_slopes": torch.linspace(0.01, 0.5, 6)},
        {"sinks": torch.linspace(-3, 3, 6)},
        {"sinks": torch.linspace(-3, 3, 6), "soft_cap": 5.0, "sliding_window": 20},
        {"alibi_slopes": torch.linspace(0.01, 0.5, 6), "sliding_window": 64},
        {"distances": DISTANCES},
        {"distances": DISTANCES, "soft_cap": 5.0, "sliding_window": 20},
    ],
    ids="+".join,
)
def test_variants(ops: Ops, dtype: torch.dtype, more: dict[str, Any]) -> None:
    check(Paged(ops, LENGTHS, config(6, 2, 32, **more), 16, dtype), dtype)


#: Of LENGTHS: at the beginning, over tiles' borders, side by side, in the cache already, of what is left of one, all of a prompt.
SPANS = [[], [], [(3, 60)], [(0, 17)], [(131, 195), (195, 199)], [(10, 90), (293, 300)], [(0, 130)], [(5, 191)], [(100, 128)]]


@pytest.mark.parametrize("windowed", [True, False])
@pytest.mark.parametrize(
    ("dtype", "more", "block_size", "kept"),
    [
        (torch.float32, {}, 16, None),
        (torch.bfloat16, {"sliding_window": 40, "soft_cap": 2.0}, 8, None),
        (torch.float32, {"sliding_window": 20, "sinks": torch.linspace(-3, 3, 6)}, 32, None),
        (torch.float32, {"sliding_window": 40}, 16, torch.int8),
    ],
    ids=str,
)
def test_spans(ops: Ops, dtype: torch.dtype, more: dict[str, Any], block_size: int, kept: torch.dtype | None, windowed: bool) -> None:
    """Tokens that see each other in both directions: by the formula, and to the bit in any company and wherever a step begins."""
    if kept is not None and ops.kv_refusal(kept):
        pytest.skip(ops.kv_refusal(kept))
    paged = Paged(ops, LENGTHS, config(6, 2, 32, **more), block_size, dtype, kept, Spans(SPANS, windowed))
    check(paged, dtype, **({} if kept is None else INT8_TOLERANCE[dtype]))
    whole = paged.attend([4, 6])
    for cut in (1, 29, 69):  # the last rows, as where the first ones' keys were in the cache already
        assert torch.equal(paged.attend([4], [(cut, 70)]), whole[cut:70])
        assert torch.equal(paged.attend([6, 0], [(cut, 130), (0, 1)])[:-1], whole[70 + cut :])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "dim", "latent", "block_size"), [(16, 96, 64, 16), (1, 33, 20, 1), (20, 40, 33, 48), (7, 576, 512, 128)])
def test_latents(ops: Ops, dtype: torch.dtype, heads: int, dim: int, latent: int, block_size: int) -> None:
    paged = Paged(ops, LENGTHS, config(heads, 1, dim, latent=latent), block_size, dtype)
    assert not paged.cache.value.numel()
    check(paged, dtype)


#: What queries and weights are rounded to before they are multiplied with int8.
INT8_TOLERANCE = TOLERANCE | {torch.float32: {"rtol": 1e-3, "atol": 3e-3}, torch.float16: {"rtol": 4e-3, "atol": 4e-3}}


@pytest.mark.parametrize(
    ("dtype", "heads", "kv_heads", "dim", "block_size", "more"),
    [
        (torch.bfloat16, 9, 3, 64, 16, {}),
        (torch.float32, 8, 1, 20, 1, {"sliding_window": 50}),
        (torch.float16, 7, 1, 33, 2, {}),
        (torch.float32, 7, 1, 33, 16, {"sliding_window": 1}),
        (torch.float32, 2, 1, 80, 4, {"soft_cap": 2.0, "sinks": torch.linspace(-3, 3, 2)}),
        (torch.float32, 6, 2, 128, 32, {"alibi_slopes": torch.linspace(0.01, 0.5, 6), "sliding_window": 64}),
        (torch.float32, 6, 2, 64, 16, {"distances": DISTANCES}),
        (torch.bfloat16, 5, 5, 16, 8, {}),
        (torch.float32, 5, 5, 256, 128, {}),
    ],
)
def test_int8_against_the_formula(
    ops: Ops, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, block_size: int, more: dict[str, Any]
) -> None:
    paged = Paged(ops, LENGTHS, config(heads, kv_heads, dim, **more), block_size, dtype, torch.int8)
    check(paged, dtype, **INT8_TOLERANCE[dtype])


@pytest.mark.parametrize("window", [None, 37])
def test_int8_in_chunks_in_any_blocks_and_on_any_number_of_threads(ops: Ops, window: int | None) -> None:
    shape, before = config(6, 2, 32, sliding_window=window), torch.get_num_threads()
    lengths = [(230, 230), (90, 300), (1, 70)]
    paged = Paged(ops, lengths, shape, 16, torch.bfloat16, torch.int8)
    whole = [paged.attend([i]) for i in range(3)]
    for a, b in [(0, 1), (0, 64), (63, 65), (7, 90), (89, 90), (30, 33)]:
        for i in (0, 1):
            assert torch.equal(paged.attend([i], [(a, b)]), whole[i][a:b]), f"rows {a} to {b} of sequence {i}"
    try:
        kernels.set_threads(3)
        for block_size in (1, 2, 4, 64):
            other = Paged(ops, lengths, shape, block_size, torch.bfloat16, torch.int8)
            assert torch.equal(other.attend([0, 1, 2], strided=True), torch.cat(whole))
    finally:
        kernels.set_threads(before)


def test_int8_keys_that_are_not_finite_harm_their_own_sequence(ops: Ops) -> None:
    paged = Paged(ops, LENGTHS, config(), 16, torch.bfloat16, torch.int8)
    before = [paged.attend([i]) for i in range(len(LENGTHS))]
    for bad in ("key", "value"):
        for poison in (math.nan, math.inf):
            qkv = torch.zeros(16, 15 * 64, dtype=torch.bfloat16)
            qkv[0, (9 if bad == "key" else 12) * 64 + 5] = poison
            slot = paged.blocks[5, 2].long() * 16 + 3  # position 35 of the sixth sequence, in its first head
            paged.ops.rope_and_store(qkv, None, None, paged.cache, paged.meta([5], [(1, 36)], slot[None]), paged.config)
            after = [paged.attend([i]) for i in range(len(LENGTHS))]
            assert not after[5][:, :3].isfinite().any()
            assert all(torch.equal(a, b) for i, (a, b) in enumerate(zip(after, before, strict=True)) if i != 5)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("window", [None, 37])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 32), (3, 3, 80), (14, 1, 33)])
def test_a_chunk_gives_the_bits_of_the_whole(ops: Ops, dtype: torch.dtype, window: int | None, heads: int, kv_heads: int, dim: int) -> None:
    paged = Paged(ops, [(230, 230), (90, 300)], config(heads, kv_heads, dim, sliding_window=window), 16, dtype)
    chunks_are_parts(paged)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_a_later_token_holds_does_not_show(ops: Ops, poison: float) -> None:
    """Tokens are multiplied in pairs, and rows go together: neither brings a later token into an earlier row."""
    if ops.name == "reference":
        pytest.skip("multiplies whole tiles: a sequence that is not finite harms more of its own rows")
    for position in (36, 101):
        paged = Paged(ops, [(120, 120)], config(4, 2, 32), 16, torch.bfloat16)
        before = paged.attend([0])
        qkv = torch.full((ROW_MULTIPLE, 8 * 32), poison, dtype=torch.bfloat16)
        slot = paged.blocks[0, position // 16].long() * 16 + position % 16
        paged.ops.rope_and_store(qkv, None, None, paged.cache, paged.meta([0], [(1, position + 1)], slot[None]), paged.config)
        after = paged.attend([0])
        assert torch.equal(after[:position], before[:position])
        assert not after[position:].isfinite().any()


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_a_chunk_of_latents_gives_the_bits_of_the_whole(ops: Ops, dtype: torch.dtype) -> None:
    chunks_are_parts(Paged(ops, [(230, 230), (90, 300)], config(20, 1, 48, latent=32), 16, dtype))


def chunks_are_parts(paged: Paged) -> None:
    for i, (query_len, _) in enumerate(paged.lengths):
        whole = paged.attend([i])
        for a, b in [(0, 1), (0, 64), (63, 65), (7, query_len), (query_len - 1, query_len), (16, 90), (30, 33)]:
            assert torch.equal(paged.attend([i], [(a, b)]), whole[a:b]), f"rows {a} to {b} of sequence {i}"


def test_block_size_and_table_stride_do_not_show(ops: Ops) -> None:
    results = []
    for block_size in (1, 4, 16, 64, 256):
        paged = Paged(ops, LENGTHS, config(), block_size, torch.bfloat16)
        results.append(paged.attend([0, 4, 6, 7]))
        assert torch.equal(paged.attend([0, 4, 6, 7], strided=True), results[-1])
    for other in results[1:]:
        assert torch.equal(other, results[0])


@pytest.mark.parametrize("latent", [0, 40])
def test_threads_do_not_show(ops: Ops, latent: int) -> None:
    paged = Paged(ops, LENGTHS, config(18, 1 if latent else 3, latent=latent), 16, torch.bfloat16)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            kernels.set_threads(threads)
            results.append(paged.attend(list(range(len(LENGTHS)))))
    finally:
        kernels.set_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("latent", [0, 40])
def test_a_row_of_nan_harms_itself_alone(ops: Ops, latent: int) -> None:
    paged = Paged(ops, LENGTHS, config(kv_heads=1 if latent else 3, latent=latent), 16, torch.bfloat16)
    which = list(range(len(LENGTHS)))
    before = paged.attend(which)
    paged.queries[4][3] = float("nan")
    after = paged.attend(which)
    row = sum(q for q, _ in LENGTHS[:4]) + 3
    assert after[row].isnan().all()
    keep = torch.arange(len(after)) != row
    assert torch.equal(after[keep], before[keep])


def test_large_scores_do_not_overflow(ops: Ops) -> None:
    paged = Paged(ops, [(1, 200), (150, 150)], replace(config(), scale=40.0), 16, torch.float32)
    for i in (0, 1):
        torch.testing.assert_close(paged.attend([i]), paged.expected(i), rtol=1e-3, atol=1e-3)


def test_copy_blocks_reads_all_before_it_writes(ops: Ops) -> None:
    cache = ops.new_kv_cache(6, 4, 2, 8, torch.float32, torch.device("cpu"))
    assert not cache.key[NULL_BLOCK].any()
    assert not cache.value[NULL_BLOCK].any()
    for tensor in cache:
        tensor[1:] = torch.randn(tensor[1:].shape)
    before = [t.clone() for t in cache]
    ops.copy_blocks(cache, torch.tensor([1, 2, 5]), torch.tensor([2, 3, 1]))
    for old, new in zip(before, cache, strict=True):
        assert torch.equal(new[[2, 3, 1]], old[[1, 2, 5]])
        assert torch.equal(new[[4, 5]], old[[4, 5]])
