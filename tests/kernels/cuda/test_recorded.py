"""Attention of recorded steps: inputs padded in memory that stays, where a step finds what others have left, give the step's own rows."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from infer.core.engine.batch import Batch
from infer.core.engine.graphs import StepSizes
from infer.core.engine.static_inputs import StaticInputs, StepSize
from infer.core.memory.prefixes import prefix_groups
from infer.kernels.cuda.attention import attention, plan_attention
from infer.kernels.cuda.attention_configs import _TABLE, DECODE_ROWS
from infer.kernels.ops import AttentionMeta, DecodeLaunch, Prefixes

from .test_attention import TOLERANCE, Paged, config_of

#: The package's `attention` is the function.
cuda_attention = importlib.import_module("infer.kernels.cuda.attention")


class Watched:
    """A kernel, and the grids that it is launched with."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self.grids: list[tuple[int, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grids.append(grid)
        return self._kernel[grid]


@pytest.fixture
def dirty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nothing has been written to is full of large numbers, which no kernel could take for a block or a sequence."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **more: empty(*shape, **more).fill_(113))


def batch_of(meta: AttentionMeta) -> Batch:
    total = len(meta.slots)
    arrays = [np.zeros(total, np.int64)] * 2
    arrays += [part.numpy(force=True) for part in (meta.query_start, meta.kv_lens, meta.block_tables, meta.slots)]
    none = np.zeros(0, np.int64)
    return Batch(*arrays, none, 0, 0, 0, none.reshape(0, 2), state_slots=np.zeros(len(meta.kv_lens), np.int32))


def groups_of(batch: Batch, block_size: int, most: int | None = None) -> Any:
    return prefix_groups(batch.block_tables, batch.kv_lens, batch.query_start, block_size, spared=0, most=most)


class Replayed:
    """Steps of one recording after the other, by their sequences."""

    def __init__(self, paged: Paged, largest: StepSize) -> None:
        self.paged = paged
        width = paged.blocks.shape[1] * paged.block_size
        self.inputs = StaticInputs(largest, width, paged.block_size, paged.device, spare_slot=-1)

    def run(self, which: list[int], size: StepSize, *, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """The rows of such a step as a recording of that size gives them, and those without recordings."""
        paged, c = self.paged, self.paged.config
        query, meta = paged.step(which)
        batch = batch_of(meta)
        if size.groups and (found := groups_of(batch, paged.block_size)) is not None:
            meta.prefixes = Prefixes(*(torch.from_numpy(part).to(paged.device) for part in found))
        expected = paged.run(query, meta, deterministic=deterministic)
        self.inputs.fill(batch, size, groups_of(batch, paged.block_size, size.groups) if size.groups else None)
        static, total = self.inputs.meta(size), len(meta.slots)
        static.plan = plan_attention(static, c.num_heads, c.num_kv_heads, deterministic=deterministic)
        rows = torch.cat([query[:total], query.new_full((size.rows - total, *query.shape[1:]), 7.0)])
        return attention(rows, paged.cache, static, c)[:total], expected


def test_decodes_take_tiles_of_so_many_rows() -> None:
    assert {shape[0] for (kernel, *_), shapes in _TABLE.items() if kernel == "decode" for shape in shapes} == {DECODE_ROWS}


def test_what_is_said_of_launches(device: torch.device) -> None:
    def said(*heads: int, deterministic: bool = False, **more: Any) -> DecodeLaunch:
        return cuda_attention.decode_launch(config_of(*heads, 16, device, **more), deterministic=deterministic)

    assert said(32, 8) == DecodeLaunch(32, joins=True)
    assert said(32, 32) == DecodeLaunch(8, joins=True)
    assert said(9, 3) == DecodeLaunch(86, joins=True)
    assert said(128, 1, latent=8) == DecodeLaunch(32, joins=False)
    assert said(16, 1) == DecodeLaunch(256, joins=False), "a tile has room for one sequence"
    assert said(32, 8, sliding_window=9) == said(32, 8, deterministic=True) == DecodeLaunch(32, joins=False)


def test_prefixes_are_padded(dirty: None, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever shares whatever in the steps before: to the bit what the step gets without a recording."""
    monkeypatch.setattr(cuda_attention, "ENOUGH_PROGRAMS", 0)
    launched = Watched(cuda_attention.attend_prefixes)
    monkeypatch.setattr(cuda_attention, "attend_prefixes", launched)
    paged = Paged(config_of(4, 2, 32, device), [(1, 300), (1, 60), (1, 291), (1, 420), (1, 140), (1, 150), (5, 290)], device, torch.float16)
    for others, first, count in (([2, 3, 6], 0, 18), ([5], 4, 8)):
        paged.blocks[others, :count] = paged.blocks[first, :count]
    decodes, mixed = StepSize(8, 8, 3), StepSize(16, 9, 3)
    replayed = Replayed(paged, StepSize(16, 9, 3))
    for which, size in (
        ([0, 1, 2, 3, 4, 5], decodes),
        ([1, 4, 2], decodes._replace(groups=0)),
        ([5, 2, 6, 4, 0], mixed),
        ([3, 0], decodes),
    ):
        got, expected = replayed.run(which, size)
        assert torch.equal(got, expected), (which, size)
    assert launched.grids == [(2, 2), (4, 2), (2, 2), (4, 2), (1, 2), (4, 2)], "of a recording's size, whatever is in it"


@pytest.mark.parametrize("more", [{}, {"latent": 16}], ids="+".join)
def test_decodes_of_mixed_steps_of_few_sequences_are_cut(
    dirty: None, device: torch.device, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """To the bit as those that are not, where that is asked for."""
    monkeypatch.setattr(cuda_attention, "ENOUGH_PROGRAMS", 24)
    launched = Watched(cuda_attention.merge_pieces)
    monkeypatch.setattr(cuda_attention, "merge_pieces", launched)
    config = config_of(4, 1 if more else 2, 32 if more else 16, device, **more)
    paged = Paged(config, [(1, 140), (9, 20), (1, 270), (3, 40), (1, 5)], device)
    sizes = StepSizes.choose(30, 32, cuda_attention.decode_launch(config))
    many = sizes.mixed[-1]
    few = sizes.of_few(many)
    assert few is not None
    replayed = Replayed(paged, sizes.largest)
    for which, deterministic in (([0, 1, 2], True), ([1, 2], False), ([3, 0, 4], True)):
        launched.grids.clear()
        whole, expected = replayed.run(which, many, deterministic=deterministic)
        cut, _ = replayed.run(which, few, deterministic=deterministic)
        assert {sequences for sequences, _ in launched.grids} == {len(which), few.sequences}
        assert torch.equal(cut, expected)
        assert torch.equal(whole, expected) or not deterministic
        torch.testing.assert_close(whole, expected, **TOLERANCE[torch.bfloat16])
