"""Triton's paged attention against the reference's, and the promises about bits that no tolerance shows."""

from __future__ import annotations

import importlib
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from infer.core.engine.batch import prompts_of
from infer.kernels import reference
from infer.kernels.cuda.attention import attention, plan_attention
from infer.kernels.cuda.kv import new_kv_cache
from infer.kernels.cuda.tiles import PIECE, count_pieces
from infer.kernels.ops import KEYS_AHEAD, NULL_BLOCK, ROW_MULTIPLE, AttentionConfig, AttentionMeta, KVCache, Prompts

#: The package's `attention` is the function.
cuda_attention = importlib.import_module("infer.kernels.cuda.attention")
TOLERANCE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
    torch.float16: {"rtol": 3e-3, "atol": 3e-3},
}
FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]
#: (query length, context length): decodes, prompts and chunks around the borders of tiles and pieces.
MIXED = [(1, 1), (1, 65), (17, 17), (40, 150), (3, 70), (1, 300)]
#: One of each kind, for what the lengths have no part in.
SHORT = [(9, 20), (1, 140)]
DECODES = [(1, 1), (1, 64), (1, 129), (1, 300)]
ALL_OPTIONS = {"sinks": True, "soft_cap": 3.0, "sliding_window": 50}


def config_of(
    heads: int,
    kv_heads: int,
    dim: int,
    device: torch.device,
    *,
    alibi: bool = False,
    sinks: bool = False,
    distances: bool = False,
    **more: Any,
):
    added = torch.linspace(-4, 4, heads * 300, device=device).view(heads, 300).sin() if distances else None
    if added is not None:  # what queries must not see is NaN
        added = torch.nn.functional.pad(added, (0, KEYS_AHEAD), value=math.nan)
    slopes = torch.linspace(0.01, 0.5, heads, device=device) if alibi else None
    sunk = torch.linspace(-3, 3, heads, device=device) if sinks else None
    return AttentionConfig(heads, kv_heads, dim, dim**-0.5 * 1.5, alibi_slopes=slopes, sinks=sunk, distances=added, **more)


@dataclass
class Paged:
    """Random sequences in shuffled blocks; whatever they do not fill is NaN, but for the null block."""

    config: AttentionConfig
    lengths: list[tuple[int, int]]
    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    cache_dtype: torch.dtype | None = None
    block_size: int = 16
    spare_blocks: int = 0
    spans: list[list[tuple[int, int, int]]] | None = None
    """Of each sequence, runs of tokens from one to before another that see each other, and the first from which a window hides nothing (-1:
    a window applies)."""
    """Columns of the block tables beyond the longest context's."""

    def __post_init__(self) -> None:
        c, g = self.config, torch.Generator().manual_seed(len(self.lengths))
        most = max(-(-context // self.block_size) for _, context in self.lengths)
        count = len(self.lengths)
        blocks = torch.randperm(count * most, generator=g).view(count, most).int() + 1
        shape = (count * most + 1, self.block_size, c.num_kv_heads, c.head_dim)
        kind = self.cache_dtype or self.dtype
        parts = [torch.randn(shape, generator=g) for _ in range(1 if c.latent else 2)]
        filled = torch.zeros(shape[:2], dtype=torch.bool)
        for i, (_, context) in enumerate(self.lengths):
            blocks[i, -(-context // self.block_size) :] = NULL_BLOCK
            place = torch.arange(context)
            filled[blocks[i, place // self.block_size].long(), place % self.block_size] = True
        for part in parts:
            part[~filled] = math.nan
            part[NULL_BLOCK] = 0
        if c.latent:
            parts.append(torch.empty(*shape[:2], 0, c.head_dim))
        self.reference = KVCache(*(part.to(kind).to(self.device) for part in parts))
        self.cache = new_kv_cache(shape[0], self.block_size, c.num_kv_heads, c.head_dim, kind, self.device, latent=c.latent)
        for mine, theirs in zip(self.cache, self.reference, strict=True):
            if theirs.numel():
                mine.view(torch.uint8).copy_(theirs.transpose(1, 2).contiguous().view(torch.uint8))
        blocks = torch.nn.functional.pad(blocks, (0, self.spare_blocks), value=NULL_BLOCK)
        self.blocks = blocks.to(self.device)
        self.queries = [torch.randn(q, c.num_heads, c.head_dim, generator=g).to(self.dtype).to(self.device) for q, _ in self.lengths]

    def step(self, which: list[int] | None = None, parts: list[tuple[int, int]] | None = None) -> tuple[Tensor, AttentionMeta]:
        """Padded query rows and where they stand, of sequences `which`, and of each only rows [first, last) of `parts`."""
        which = list(range(len(self.lengths))) if which is None else which
        parts = parts or [(0, self.lengths[i][0]) for i in which]
        rows = torch.cat([self.queries[i][a:b] for i, (a, b) in zip(which, parts, strict=True)])
        total = len(rows)
        starts = torch.tensor([0, *(b - a for a, b in parts)]).cumsum(0)
        contexts = [self.lengths[i][1] - self.lengths[i][0] + b for i, (_, b) in zip(which, parts, strict=True)]
        meta = AttentionMeta(
            starts.int().to(self.device),
            torch.tensor(contexts, dtype=torch.int32, device=self.device),
            self.blocks[which],
            torch.zeros(total, dtype=torch.int64, device=self.device),
            self.block_size,
        )
        if self.spans is not None:
            meta.spans = torch.cat([self.seen(i, c - (b - a), c) for i, (a, b), c in zip(which, parts, contexts, strict=True)])
        return torch.cat([rows, rows.new_full((-total % ROW_MULTIPLE, *rows.shape[1:]), 7.0)]), meta

    def seen(self, i: int, start: int, stop: int) -> Tensor:
        assert self.spans is not None
        found = torch.arange(start, stop, dtype=torch.int32).repeat(2, 1).T.contiguous()
        for first, end, low in self.spans[i]:
            inside = slice(max(first - start, 0), max(end - start, 0))
            found[inside, 1] = end - 1
            if low >= 0:
                found[inside, 0] = low
        return found.to(self.device)

    def named(self, meta: AttentionMeta, *, more: int) -> AttentionMeta:
        """With the prompts as the host says them, and empty entries behind them."""
        rows, starts = prompts_of(meta.query_start.numpy(force=True))
        behind = torch.zeros(more, dtype=torch.int32, device=self.device)
        parts = [torch.from_numpy(part).to(self.device) for part in (rows, starts)]
        parts = [torch.cat([part, behind + part[-1:]]) for part in parts]
        return replace(meta, prompts=Prompts(*parts, tokens=int(starts[-1]) + more))

    def attend(self, which: list[int] | None = None, parts: list[tuple[int, int]] | None = None, *, deterministic: bool = False) -> Tensor:
        query, meta = self.step(which, parts)
        return self.run(query, meta, deterministic=deterministic)

    def run(self, query: Tensor, meta: AttentionMeta, *, deterministic: bool = False) -> Tensor:
        meta.plan = plan_attention(meta, self.config.num_heads, self.config.num_kv_heads, deterministic=deterministic)
        out = attention(query, self.cache, meta, self.config)
        total = meta.slots.shape[0]
        assert out.dtype == query.dtype
        assert out.shape == (len(query), self.config.num_heads * self.config.value_dim)
        assert not out[total:].any()
        return out[:total]

    def check(self, *, deterministic: bool = False, tolerance: dict[str, float] | None = None) -> None:
        query, meta = self.step()
        mine = self.run(query, meta, deterministic=deterministic)
        # Numbers of eight bits are exact in float32: the reference multiplies what the cache holds.
        meta.plan = reference.attention.plan_attention(meta, self.config.num_heads, self.config.num_kv_heads)
        theirs = KVCache(*(t.float() for t in self.reference)) if self.cache_dtype in FLOAT8 else self.reference
        expected = reference.attention.attention(query, theirs, meta, self.config)[: len(mine)]
        torch.testing.assert_close(mine, expected, **(tolerance or TOLERANCE[self.dtype]))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "dtype", "block_size"),
    [
        (2, 1, 64, torch.bfloat16, 16),
        (3, 1, 80, torch.float16, 32),
        (2, 2, 96, torch.float32, 16),
        (8, 1, 128, torch.bfloat16, 32),
        (1, 1, 256, torch.float16, 16),
    ],
    ids=str,
)
@pytest.mark.parametrize("lengths", [MIXED, DECODES], ids=["mixed", "decodes"])
def test_against_the_reference(
    device: torch.device, lengths: list[tuple[int, int]], heads: int, kv_heads: int, dim: int, dtype: torch.dtype, block_size: int
) -> None:
    Paged(config_of(heads, kv_heads, dim, device), lengths, device, dtype, block_size=block_size).check()


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("heads", "dim", "latent", "dtype", "cache_dtype", "block_size"),
    [
        (3, 44, 33, torch.float32, None, 8),
        (20, 96, 64, torch.bfloat16, None, 16),
        (16, 80, 64, torch.float16, torch.float8_e4m3fn, 32),
    ],
    ids=str,
)
def test_latents(
    device: torch.device,
    heads: int,
    dim: int,
    latent: int,
    dtype: torch.dtype,
    cache_dtype: torch.dtype | None,
    block_size: int,
    deterministic: bool,
) -> None:
    config = config_of(heads, 1, dim, device, latent=latent)
    Paged(config, [(17, 40), (3, 70), (1, 300), (1, 1)], device, dtype, cache_dtype, block_size).check(deterministic=deterministic)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    "more",
    [
        {"soft_cap": 2.0},
        {"alibi": True},
        {"sinks": True},
        {"sliding_window": 20},
        ALL_OPTIONS,
        {"sliding_window": 1, "alibi": True},
        {"distances": True},
    ],
    ids="+".join,
)
def test_variants(device: torch.device, more: dict[str, Any], deterministic: bool) -> None:
    paged = Paged(config_of(2, 1, 32, device, **more), [(1, 1), (40, 150), (1, 200)], device, torch.float32)
    paged.check(deterministic=deterministic)
    if deterministic:
        assert torch.equal(paged.attend([1], [(39, 40)], deterministic=True), paged.attend(deterministic=True)[40:41])


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("more", [{}, {"sliding_window": 20, "soft_cap": 2.0}], ids="+".join)
def test_spans(device: torch.device, more: dict[str, Any], deterministic: bool) -> None:
    lengths = [(1, 1), (40, 150), (1, 200), (60, 60), (3, 30)]
    spans = [[], [(120, 149, -1)], [(0, 200, 0)], [(0, 60, 0)], [(2, 9, -1), (27, 29, -1)]]
    paged = Paged(config_of(2, 1, 32, device, **more), lengths, device, torch.float32, spans=spans)
    paged.check(deterministic=deterministic)
    if deterministic:
        whole = paged.attend(deterministic=True)
        assert torch.equal(paged.attend([3], [(33, 60)], deterministic=True), whole[42 + 33 : 42 + 60])
        assert torch.equal(paged.attend([1], [(39, 40)], deterministic=True), whole[40:41])


def grid() -> list[tuple[Any, ...]]:
    """Every seventh of all combinations: seven divides no number of choices, so that each two choices meet."""
    choices = ([64, 80, 96, 128, 256], [1, 2, 3, 4, 8], TOLERANCE, [16, 32], [{}, ALL_OPTIONS, {"alibi": True}], [MIXED, DECODES], [0, 1])
    return list(itertools.product(*choices))[::7]


@pytest.mark.grid
@pytest.mark.parametrize(("dim", "group", "dtype", "block_size", "more", "lengths", "deterministic"), grid())
def test_grid(
    device: torch.device,
    dim: int,
    group: int,
    dtype: torch.dtype,
    block_size: int,
    more: dict[str, Any],
    lengths: list[tuple[int, int]],
    deterministic: bool,
) -> None:
    Paged(config_of(2 * group, 2, dim, device, **more), lengths, device, dtype, block_size=block_size).check(deterministic=deterministic)


@pytest.mark.parametrize("cache_dtype", [*FLOAT8, torch.float32], ids=str)
def test_a_cache_of_another_type(device: torch.device, cache_dtype: torch.dtype) -> None:
    Paged(config_of(2, 1, 64, device), SHORT, device, torch.bfloat16, cache_dtype).check()


def test_float8_by_its_bits(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As GPUs do it that cannot convert it."""
    monkeypatch.setattr("infer.kernels.cuda.narrow.converts_e4m3", lambda device: False)
    Paged(config_of(2, 1, 64, device), SHORT, device, torch.float16, torch.float8_e4m3fn).check()


@pytest.mark.parametrize("block_size", [1, 8, 128])
def test_blocks_of_any_size(device: torch.device, block_size: int) -> None:
    Paged(config_of(2, 1, 33, device), SHORT, device, torch.float32, block_size=block_size).check()


def test_a_group_larger_than_a_tile(device: torch.device) -> None:
    paged = Paged(config_of(37, 1, 16, device), [(1, 140), (3, 9)], device, torch.float32)
    paged.check()
    paged.check(deterministic=True)


@pytest.mark.parametrize("more", [ALL_OPTIONS, {"latent": 16}], ids="+".join)
def test_decodes_in_one_go_and_in_pieces_agree(device: torch.device, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    paged = Paged(config_of(4, 1 if "latent" in more else 2, 32, device, **more), DECODES, device, torch.float32)
    in_pieces = paged.attend()
    monkeypatch.setattr(cuda_attention, "ENOUGH_PROGRAMS", 1)
    torch.testing.assert_close(paged.attend(), in_pieces, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [None, 37])
def test_a_chunk_gives_the_same_as_the_whole(device: torch.device, window: int | None) -> None:
    paged = Paged(config_of(3, 1, 32, device, sliding_window=window), [(150, 150)], device, torch.float32)
    whole = paged.attend()
    for a, b in [(0, 1), (63, 65), (7, 150), (149, 150)]:
        torch.testing.assert_close(paged.attend([0], [(a, b)]), whole[a:b], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"sliding_window": 37, "sinks": True}, {"latent": 16}], ids="+".join)
def test_deterministic_rows_keep_their_bits_in_any_company(
    device: torch.device, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As part of a prompt, of a chunk, as decodes, alone and among others, however many programs share the work."""
    paged = Paged(config_of(2, 1, 32, device, **more), [(180, 180), (1, 140), (9, 20)], device)
    whole = paged.attend([0], deterministic=True)
    for a, b in [(0, 130), (127, 180), (130, 131), (179, 180)]:
        assert torch.equal(paged.attend([0], [(a, b)], deterministic=True), whole[a:b]), f"rows {a} to {b}"
    for a, b in [(130, 131), (150, 153)]:
        beside = paged.attend([1, 0, 2], [(0, 1), (a, b), (0, 9)], deterministic=True)
        assert torch.equal(beside[1 : 1 + b - a], whole[a:b]), f"rows {a} to {b} among others"
    wider = replace(paged, spare_blocks=400)
    assert torch.equal(wider.attend([0], [(179, 180)], deterministic=True), whole[179:])
    monkeypatch.setattr(cuda_attention, "ENOUGH_PROGRAMS", 1)
    assert torch.equal(paged.attend([0], [(179, 180)], deterministic=True), whole[179:])


def test_padding_sequences_get_zeros_and_read_nothing(device: torch.device) -> None:
    """As a captured step has them: sequences of one row whose context is empty."""
    paged = Paged(config_of(2, 1, 32, device), DECODES, device, torch.float32)
    query, meta = paged.step()
    alone = paged.run(query, meta)
    for deterministic in (False, True):
        meta.kv_lens = torch.tensor([*meta.kv_lens.tolist()[:3], 0], dtype=torch.int32, device=device)
        meta.block_tables[3] = 10**8
        out = paged.run(query, meta, deterministic=deterministic)
        torch.testing.assert_close(out[:3], alone[:3], rtol=1e-5, atol=1e-6)
        assert not out[3].any()


def test_sequences_without_tokens(device: torch.device) -> None:
    paged = Paged(config_of(2, 1, 32, device), [(20, 20), (1, 30), (40, 70)], device, torch.float32)
    together = paged.attend()
    query, meta = paged.step()
    meta.query_start = meta.query_start[[0, 0, 1, 1, 2, 3, 3]].contiguous()
    meta.kv_lens = meta.kv_lens[[0, 0, 0, 1, 2, 2]].contiguous()
    meta.block_tables = meta.block_tables[[0, 0, 0, 1, 2, 2]].contiguous()
    torch.testing.assert_close(paged.run(query, meta), together, rtol=1e-5, atol=1e-6)


def test_tables_may_be_strided(device: torch.device) -> None:
    paged = Paged(config_of(2, 1, 32, device), SHORT, device)
    query, meta = paged.step()
    before = paged.run(query, meta)
    width = meta.block_tables.shape[1]
    meta.block_tables = torch.nn.functional.pad(meta.block_tables, (0, 5), value=10**8)[:, :width]
    assert torch.equal(paged.run(query, meta), before)


def test_a_row_of_nan_harms_itself_alone(device: torch.device) -> None:
    paged = Paged(config_of(2, 1, 32, device), MIXED, device)
    before = paged.attend()
    paged.queries[3][3] = math.nan
    after = paged.attend()
    row = sum(q for q, _ in MIXED[:3]) + 3
    assert after[row].isnan().all()
    keep = torch.arange(len(after), device=device) != row
    assert torch.equal(after[keep], before[keep])


def test_large_scores_do_not_overflow(device: torch.device) -> None:
    paged = Paged(replace(config_of(2, 1, 64, device), scale=40.0), [(1, 200), (20, 150)], device, torch.float32)
    for deterministic in (False, True):
        paged.check(deterministic=deterministic, tolerance={"rtol": 1e-3, "atol": 1e-3})


def test_pieces_cover_every_position_once() -> None:
    def start(piece: int) -> int:
        octave = max(piece // 8 - 1, 0)
        return ((piece - 8 * octave) << octave) * PIECE

    starts = [start(i) for i in range(70)]
    assert starts[0] == 0
    assert all(b > a for a, b in itertools.pairwise(starts))
    for length in [1, PIECE, PIECE + 1, 16 * PIECE, 16 * PIECE + 1, 17 * PIECE, 10**4, 10**5, 131072]:
        count = count_pieces(length)
        assert starts[count - 1] < length <= starts[count]
    assert count_pieces(131072) == 64


@pytest.mark.parametrize("latent", [0, 32])
@pytest.mark.parametrize("deterministic", [False, True])
def test_prompts_that_the_host_names(device: torch.device, latent: int, deterministic: bool) -> None:
    """The same bits with fewer programs: none for decodes, whether the names are as many as the prompts or there is room for more."""
    config = AttentionConfig(4, 1, 48, 0.2, latent=latent) if latent else config_of(4, 2, 32, device)
    paged = Paged(config, [(1, 30), (9, 20), (1, 140), (40, 70), (1, 5), (2, 2)], device)
    query, meta = paged.step()
    plain = paged.run(query, meta, deterministic=deterministic)
    for more in (0, 3):
        assert torch.equal(paged.run(query, paged.named(meta, more=more), deterministic=deterministic), plain)


def test_more_prompts_than_are_searched_at_once(device: torch.device) -> None:
    paged = Paged(config_of(1, 1, 16, device), [(2 + i % 2, 3 + i % 7) for i in range(300)], device, torch.float32)
    query, meta = paged.step()
    mine = paged.run(query, paged.named(meta, more=1))
    meta.plan = reference.attention.plan_attention(meta, 1, 1)
    torch.testing.assert_close(
        mine, reference.attention.attention(query, paged.reference, meta, paged.config)[: len(mine)], **TOLERANCE[torch.float32]
    )
