"""Triton's way from qkv to queries and cache against the reference's, whatever is left out of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from infer.kernels import reference
from infer.kernels.cuda.kv import new_kv_cache
from infer.kernels.cuda.rope import rope_and_store, rotated
from infer.kernels.ops import NULL_BLOCK, AttentionConfig, AttentionMeta, HeadNorm, Rotation, Rows, ScaledRows

TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 8e-3, "atol": 1e-4},
    torch.float16: {"rtol": 1e-3, "atol": 1e-5},
    torch.float8_e4m3fn: {"rtol": 0.13, "atol": 2**-9},
    torch.float8_e5m2: {"rtol": 0.26, "atol": 2**-16},
}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "partial": {"half": 10},
    "one angle": {"half": 1, "dim": 20},
    "no rotation": {"half": None},
    "head norm": {"norm": True, "dim": 128, "half": 64},
    "head norm without rotation": {"norm": True, "half": None, "dim": 80},
    "partial head norm": {"norm": True, "half": 24, "dim": 96},
    "large heads": {"half": 128, "dim": 256},
    "odd size": {"dim": 21, "half": 10},
    "scaled": {"scaled": True, "norm": True},
    "strided": {"strided": True, "scaled": True, "heads": 9, "kv_heads": 3},
    "blocks of one": {"block_size": 1},
    "large blocks": {"block_size": 64, "heads": 5, "kv_heads": 5},
}


@dataclass
class Case:
    device: torch.device
    dtype: torch.dtype = torch.float32
    cache_dtype: torch.dtype | None = None
    heads: int = 4
    kv_heads: int = 2
    dim: int = 64
    half: int | None = 32
    norm: bool = False
    scaled: bool = False
    strided: bool = False
    block_size: int = 16
    rows: int = 16
    real: int = 13

    def __post_init__(self) -> None:
        g = torch.Generator().manual_seed(self.dim)
        width = (self.heads + 2 * self.kv_heads) * self.dim
        values = torch.randn(self.rows, width + 24 * self.strided, generator=g).to(self.dtype).to(self.device)
        values = values[:, 8 : 8 + width] if self.strided else values
        self.qkv: Rows = ScaledRows(values, (torch.rand(self.rows, generator=g) + 0.5).to(self.device)) if self.scaled else values
        self.rotation = None
        if self.half is not None:
            angles = torch.outer(torch.arange(300.0), torch.rand(self.half, generator=g)).to(self.device)
            self.rotation = Rotation(torch.randint(300, (self.rows,), generator=g).to(self.device), angles.cos(), angles.sin())
        weights = [(torch.rand(self.dim, generator=g) + 0.5).to(self.dtype).to(self.device) for _ in "qk"]
        self.head_norm = HeadNorm(*weights, 1e-5) if self.norm else None
        self.config = AttentionConfig(self.heads, self.kv_heads, self.dim, 1.0)
        self.num_blocks = self.rows + 2
        first = torch.arange(self.block_size // 3, self.block_size // 3 + self.real // 2)
        blocks = torch.randperm(self.num_blocks - 1, generator=g) + 1
        alone = blocks[-(self.real - len(first)) :] * self.block_size
        self.slots = torch.cat([blocks[first // self.block_size] * self.block_size + first % self.block_size, alone]).to(self.device)

    def run(self, *, rows: slice = slice(None), slots: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of `rows`, and all keys and values [B * block_size, K, D]."""
        slots = self.slots[rows] if slots is None else slots
        cache = new_kv_cache(self.num_blocks, self.block_size, self.kv_heads, self.dim, self.cache_dtype or self.dtype, self.device)
        for tensor in cache:
            tensor[1:] = math.nan
        query = rope_and_store(self.of(rows), self.turning(rows), self.head_norm, cache, self.meta(slots), self.config)
        assert query.dtype == self.dtype
        return query, *(t.transpose(1, 2).flatten(0, 1) for t in cache)

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        kind = self.cache_dtype or self.dtype
        cache = reference.kv.new_kv_cache(self.num_blocks, self.block_size, self.kv_heads, self.dim, torch.float32, self.device)
        query = reference.rope.rope_and_store(self.qkv, self.rotation, self.head_norm, cache, self.meta(self.slots), self.config)
        return query, *(t.to(kind).flatten(0, 1)[self.slots] for t in cache)

    def meta(self, slots: Tensor) -> AttentionMeta:
        empty = torch.zeros(0, dtype=torch.int32, device=self.device)
        return AttentionMeta(empty, empty, empty[None], slots, self.block_size)

    def of(self, rows: slice) -> Rows:
        return ScaledRows(self.qkv.values[rows], self.qkv.scale[rows]) if isinstance(self.qkv, ScaledRows) else self.qkv[rows]

    def turning(self, rows: slice) -> Rotation | None:
        return self.rotation and self.rotation._replace(positions=self.rotation.positions[rows])

    def check(self) -> None:
        query, keys, values = self.run()
        expected = self.expected()
        torch.testing.assert_close(query, expected[0], **TOLERANCE[self.dtype])
        for got, wanted in ((keys, expected[1]), (values, expected[2])):
            torch.testing.assert_close(got[self.slots].float(), wanted.float(), **TOLERANCE[self.cache_dtype or self.dtype])
            every = torch.arange(len(got), device=self.device)
            untouched = every[~torch.isin(every, self.slots) & (every >= self.block_size)]
            assert got[untouched].float().isnan().all(), "what nobody owns was written"
            assert not got[: self.block_size].float().any(), f"block {NULL_BLOCK} was written"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_against_the_reference(device: torch.device, name: str, dtype: torch.dtype) -> None:
    Case(device, dtype, **CASES[name]).check()


@pytest.mark.grid
@pytest.mark.parametrize("cache_dtype", [None, *TOLERANCE], ids=str)
@pytest.mark.parametrize("dtype", list(TOLERANCE)[:3], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_grid(device: torch.device, name: str, dtype: torch.dtype, cache_dtype: torch.dtype | None) -> None:
    Case(device, dtype, cache_dtype, **CASES[name]).check()


@pytest.mark.parametrize("cache_dtype", list(TOLERANCE)[2:], ids=str)
def test_a_cache_of_another_type(device: torch.device, cache_dtype: torch.dtype) -> None:
    Case(device, torch.bfloat16, cache_dtype).check()


def test_float8_by_its_bits(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As GPUs do it that cannot convert it: the very bits that the conversion gives."""
    case = Case(device, torch.float32, torch.float8_e4m3fn)
    _, keys, values = case.run()
    monkeypatch.setattr("infer.kernels.cuda.narrow.converts_e4m3", lambda device: False)
    case.check()
    assert all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip((keys, values), case.run()[1:], strict=True))


def test_a_row_is_the_same_in_any_company(device: torch.device) -> None:
    case = Case(device, torch.bfloat16, norm=True)
    whole = case.run()
    for rows in (slice(0, 1), slice(3, 9), slice(12, 16)):
        query, keys, values = case.run(rows=rows)
        assert torch.equal(query, whole[0][rows])
        mine = case.slots[rows]
        assert torch.equal(keys[mine], whole[1][mine])
        assert torch.equal(values[mine], whole[2][mine])


def test_a_negative_slot_stores_nothing(device: torch.device) -> None:
    """Rows that fill up a captured step have one."""
    case = Case(device)
    slots = case.slots.clone()
    slots[4] = -1
    query, keys, _ = case.run(slots=slots)
    assert torch.equal(query, case.run()[0])
    assert keys[case.slots[4]].isnan().all()
    assert not keys[slots[slots >= 0]].isnan().any()
    assert not keys[: case.block_size].any()


def test_a_row_of_nan_harms_itself_alone(device: torch.device) -> None:
    case = Case(device, norm=True)
    before = case.run()
    case.qkv[7] = math.nan
    after = case.run()
    assert after[0][7].isnan().all()
    others = torch.arange(case.rows) != 7
    assert torch.equal(before[0][others], after[0][others])
    for old, new in zip(before[1:], after[1:], strict=True):
        assert new[case.slots[7]].isnan().all()
        kept = case.slots[others[: case.real]]
        assert torch.equal(old[kept], new[kept])


@pytest.mark.parametrize("cache_dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_float8_saturates(device: torch.device, cache_dtype: torch.dtype) -> None:
    case = Case(device, torch.float32, cache_dtype, half=None)
    case.qkv[3] = 1e6
    case.qkv[5] = -1e6
    _, keys, values = case.run()
    most = torch.finfo(cache_dtype).max
    for tensor in (keys, values):
        assert (tensor[case.slots[3]].float() == most).all()
        assert (tensor[case.slots[5]].float() == -most).all()


@pytest.mark.parametrize("rotation", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_rotated_rows_without_a_cache(device: torch.device, scaled: bool, rotation: bool) -> None:
    case = Case(device, torch.bfloat16, scaled=scaled, strided=True, half=24 if rotation else None)
    out = rotated(case.qkv, case.rotation, case.config)
    if not scaled and not rotation:
        assert out is case.qkv
    query, key, value = out.unflatten(1, (-1, case.dim)).split([case.heads, case.kv_heads, case.kv_heads], 1)
    expected = case.expected()
    torch.testing.assert_close(query, expected[0], **TOLERANCE[torch.bfloat16])
    torch.testing.assert_close(key[: case.real], expected[1], **TOLERANCE[torch.bfloat16])
    torch.testing.assert_close(value[: case.real], expected[2], **TOLERANCE[torch.bfloat16])


def test_queries_alone_store_nothing(device: torch.device) -> None:
    case = Case(device, norm=True)
    expected, *_ = case.run()
    case.qkv, case.config = case.qkv[:, : case.heads * case.dim], replace(case.config, num_kv_heads=0)
    query, keys, values = case.run()
    assert torch.equal(query, expected)
    for tensor in (keys, values):
        assert tensor[case.block_size :].isnan().all()
