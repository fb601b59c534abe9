"""Rotation and storing of every backend: against float64 formulas, read back through the cache's layout."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.kernels.ops import NULL_BLOCK, AttentionConfig, AttentionMeta, HeadNorm, KVCache, Ops, Rotation, Rows, ScaledRows

CPU = torch.device("cpu")
EPS = 1e-5
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 8e-3, "atol": 1e-4},
    torch.float16: {"rtol": 1e-3, "atol": 1e-5},
}


@pytest.fixture(params=kernels.usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return kernels.load(request.param)


def stored(ops: Ops, cache: KVCache, slots: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Keys and values [T, K, D] at `slots`, whatever the layout."""
    if ops.name == "cpu":
        key, value = stored_raw(ops, cache, slots, head_dim)
        assert not key.flatten(2)[..., head_dim:].any()
        return key.flatten(2)[..., :head_dim], value
    if ops.name == "cuda":
        return tuple(t[slots // t.shape[2], :, slots % t.shape[2]] for t in cache)
    return cache.key.flatten(0, 1)[slots], cache.value.flatten(0, 1)[slots]


@dataclass
class Case:
    heads: int = 4
    kv_heads: int = 2
    dim: int = 64
    rotated: int | None = 32
    """Features that turn with as many others; None: no rotation."""
    head_norm: bool = False
    scaled: bool = False
    strided: bool = False
    dtype: torch.dtype = torch.float32
    cache_dtype: torch.dtype | None = None
    block_size: int = 16
    rows: int = 48
    real: int = 45
    slots: Tensor = field(init=False)

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.dim)
        width = (self.heads + 2 * self.kv_heads) * self.dim
        values = torch.randn(self.rows, width + 24 * self.strided, generator=g).to(self.dtype)
        values = values[:, 8 : 8 + width] if self.strided else values
        self.qkv: Rows = ScaledRows(values, torch.rand(self.rows, generator=g) + 0.5) if self.scaled else values
        self.rotation = None
        if self.rotated is not None:
            angles = torch.outer(torch.arange(300.0), torch.rand(self.rotated, generator=g))
            self.rotation = Rotation(torch.randint(300, (self.rows,), generator=g), angles.cos(), angles.sin())
        weights = [(torch.rand(self.dim, generator=g) + 0.5).to(self.dtype) for _ in "qk"]
        self.norm = HeadNorm(*weights, EPS) if self.head_norm else None
        self.config = AttentionConfig(self.heads, self.kv_heads, self.dim, 1.0)
        # A prefill that starts in the middle of a block and goes on in others, then single tokens all over.
        self.num_blocks = -(-self.rows // self.block_size) + self.rows + 2
        blocks = torch.randperm(self.num_blocks - 1, generator=g) + 1
        run, start = self.real * 2 // 3, self.block_size // 3
        places = torch.arange(start, start + run)
        prefill = blocks[places // self.block_size] * self.block_size + places % self.block_size
        rest = blocks[-(self.real - run) :] * self.block_size + torch.arange(self.real - run) % self.block_size
        self.slots = torch.cat([prefill, rest])

    def run(self, ops: Ops, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, and the keys and values that were stored, of rows [first, last)."""
        rows = slice(first, last)
        qkv = ScaledRows(self.qkv.values[rows], self.qkv.scale[rows]) if isinstance(self.qkv, ScaledRows) else self.qkv[rows]
        rotation = self.rotation and self.rotation._replace(positions=self.rotation.positions[rows])
        slots = self.slots[rows]
        cache = ops.new_kv_cache(self.num_blocks, self.block_size, self.kv_heads, self.dim, self.cache_dtype or self.dtype, CPU)
        cache.key[1:] = cache.value[1:] = math.nan
        empty = torch.zeros(0, dtype=torch.int32)
        query = ops.rope_and_store(
            qkv, rotation, self.norm, cache, AttentionMeta(empty, empty, empty[None], slots, self.block_size), self.config
        )
        assert query.dtype == self.dtype
        every = torch.arange(self.num_blocks * self.block_size)
        untouched = every[~torch.isin(every, slots) & (every >= self.block_size)]
        key, value = (t.reshape(-1) for t in stored_raw(ops, cache, untouched, self.dim))
        assert key.isnan().all(), "a key nobody owns was written"
        assert value.isnan().all(), "a value nobody owns was written"
        assert not cache.key[NULL_BLOCK].any()
        assert not cache.value[NULL_BLOCK].any()
        return query, *stored(ops, cache, slots, self.dim)

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        rows = self.qkv.values.double() * self.qkv.scale.double()[:, None] if isinstance(self.qkv, ScaledRows) else self.qkv.double()
        query, key, value = rows.unflatten(1, (-1, self.dim)).split([self.heads, self.kv_heads, self.kv_heads], 1)
        if self.norm is not None:
            query, key = (
                x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * w.double()
                for x, w in ((query, self.norm.query), (key, self.norm.key))
            )
        if self.rotation is not None:
            query, key = self.turned(query), self.turned(key)
        return query, key[: self.real], value[: self.real]

    def turned(self, x: Tensor) -> Tensor:
        positions, cos, sin = self.rotation
        c, s = cos.double()[positions][:, None], sin.double()[positions][:, None]
        half = cos.shape[1]
        a, b = x[..., :half], x[..., half : 2 * half]
        return torch.cat([a * c - b * s, b * c + a * s, x[..., 2 * half :]], -1)


def stored_raw(ops: Ops, cache: KVCache, slots: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Like `stored`, without looking at the padding of an odd head."""
    if ops.name == "cpu":
        block_size = cache.key.shape[3]
        block, offset = slots // block_size, slots % block_size
        pairs = cache.value.ndim == 5  # of tokens, see cpu/kv.py
        value = cache.value[block, :, offset // 2, :, offset % 2] if pairs else cache.value[block, :, offset]
        return cache.key[block, :, :, offset], value
    return stored(ops, cache, slots, head_dim)


CASES = {
    "plain": {},
    "partial": {"rotated": 10},
    "one angle": {"rotated": 1, "dim": 20},
    "no rotation": {"rotated": None},
    "head norm": {"head_norm": True, "dim": 128, "rotated": 64},
    "head norm without rotation": {"head_norm": True, "rotated": None, "dim": 80},
    "odd size": {"dim": 21, "rotated": 10},
    "scaled": {"scaled": True, "head_norm": True},
    "scaled without norm": {"scaled": True, "heads": 9, "kv_heads": 3},
    "strided": {"strided": True, "scaled": True},
    "blocks of one": {"block_size": 1},
    "large blocks": {"block_size": 64, "heads": 5, "kv_heads": 5},
    "no padding": {"rows": 48, "real": 48},
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_against_the_formula_and_the_same_in_any_company(ops: Ops, name: str, dtype: torch.dtype) -> None:
    case = Case(**CASES[name], dtype=dtype)
    whole = case.run(ops)
    for got, wanted in zip(whole, case.expected(), strict=True):
        torch.testing.assert_close(got, wanted.to(dtype), **TOLERANCE[dtype])
    for first, last in [(0, 1), (16, 32), (3, 48), (40, 41)]:
        query, key, value = case.run(ops, first, last)
        assert torch.equal(query, whole[0][first:last])
        assert torch.equal(key, whole[1][first:last])
        assert torch.equal(value, whole[2][first:last])


@pytest.mark.parametrize("cache_dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_cache_of_another_type(ops: Ops, dtype: torch.dtype, cache_dtype: torch.dtype) -> None:
    case = Case(dtype=dtype, cache_dtype=cache_dtype)
    query, key, value = case.run(ops)
    expected = case.expected()
    torch.testing.assert_close(query, expected[0].to(dtype), **TOLERANCE[dtype])
    torch.testing.assert_close(key, expected[1].to(cache_dtype), **TOLERANCE[cache_dtype])
    assert torch.equal(value, expected[2].to(cache_dtype))


def test_threads_change_nothing(ops: Ops) -> None:
    case = Case(rows=256, real=250, dtype=torch.bfloat16)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            kernels.set_threads(threads)
            results.append(case.run(ops))
    finally:
        kernels.set_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_row_of_nan_harms_itself_alone(ops: Ops) -> None:
    case = Case(head_norm=True)
    before = case.run(ops)
    case.qkv[7] = math.nan
    for clean, poisoned in zip(before, case.run(ops), strict=True):
        assert poisoned[7].isnan().all()
        others = torch.arange(len(clean)) != 7
        assert torch.equal(clean[others], poisoned[others])


def test_queries_alone_leave_the_cache_as_it_is(ops: Ops) -> None:
    """A layer that reads another's keys and values has none of its own."""
    case = Case(head_norm=True)
    expected, *_ = case.run(ops)
    cache = ops.new_kv_cache(case.num_blocks, case.block_size, case.kv_heads, case.dim, case.dtype, CPU)
    cache.key[1:] = cache.value[1:] = math.nan
    empty = torch.zeros(0, dtype=torch.int32)
    meta = AttentionMeta(empty, empty, empty[None], case.slots, case.block_size)
    config = AttentionConfig(case.heads, 0, case.dim, 1.0)
    query = ops.rope_and_store(case.qkv[:, : case.heads * case.dim], case.rotation, case.norm, cache, meta, config)
    assert torch.equal(query, expected)
    assert cache.key[1:].isnan().all()
    assert cache.value[1:].isnan().all()
