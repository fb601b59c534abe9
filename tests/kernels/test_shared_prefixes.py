"""Sequences whose block tables begin alike go through what they share together: each key and value is read once, and no bit shows it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from infer import kernels
from infer.kernels.ops import NULL_BLOCK, ROW_MULTIPLE, AttentionConfig, AttentionMeta, Ops

TILE = 64
Fork = tuple[int, int, int, int]


@pytest.fixture(params=kernels.usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return kernels.load(request.param)


class Tree:
    """Sequences that fork from each other: tables that begin alike, of different lengths, with tokens of their own at the end.

    Args:
        forks: of each sequence the one before it that it forks from (-1: none), the tokens it has from there, those of its own,
            and how many of these are this step's.
    """

    def __init__(self, ops: Ops, forks: list[Fork], config: AttentionConfig, block_size: int, dtype: torch.dtype) -> None:
        self.ops, self.config, self.block_size = ops, config, block_size
        self.dtype = torch.bfloat16 if dtype == torch.int8 else dtype
        tables: list[list[int]] = []
        lens: list[int] = []
        fresh = 1
        for parent, shared, own, _ in forks:
            kept = tables[parent][: shared // block_size] if parent >= 0 else []
            blocks = -(-own // block_size)
            tables.append(kept + list(range(fresh, fresh + blocks)))
            lens.append(len(kept) * block_size + own)
            fresh += blocks
        g = torch.Generator().manual_seed(fresh)
        names = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(fresh - 1, generator=g)])
        self.tables = torch.full((len(forks), max(map(len, tables))), NULL_BLOCK, dtype=torch.int32)
        for row, table in enumerate(tables):
            self.tables[row, : len(table)] = names[table].int()
        self.lens, self.counts = lens, [count for *_, count in forks]
        self.poison = fresh  # a block that nobody has
        self.cache = ops.new_kv_cache(fresh + 1, block_size, config.num_kv_heads, config.head_dim, dtype, torch.device("cpu"))
        for part in self.cache:
            part.view(torch.uint8)[1:] = 0xFF  # NaN
        width = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        slots = block_size + torch.arange((fresh - 1) * block_size)
        qkv = torch.randn(-(-len(slots) // ROW_MULTIPLE) * ROW_MULTIPLE, width, generator=g).to(self.dtype)
        ops.rope_and_store(qkv, None, None, self.cache, self._meta(list(range(len(lens))), slots), config)
        self.queries = [torch.randn(n, config.num_heads, config.head_dim, generator=g).to(self.dtype) for n in self.counts]

    def _meta(self, which: list[int], slots: Tensor) -> AttentionMeta:
        starts = torch.tensor([0, *(self.counts[i] for i in which)]).cumsum(0).int()
        lens = torch.tensor([self.lens[i] for i in which], dtype=torch.int32)
        return AttentionMeta(starts, lens, self.tables[which], slots, self.block_size)

    def meta(self, which: list[int]) -> AttentionMeta:
        meta = self._meta(which, torch.zeros(sum(self.counts[i] for i in which), dtype=torch.int64))
        meta.plan = self.ops.plan_attention(meta, self.config.num_heads, self.config.num_kv_heads)
        return meta

    def attend(self, which: list[int], meta: AttentionMeta | None = None) -> list[Tensor]:
        """The rows of each of the sequences `which`."""
        rows = torch.cat([self.queries[i] for i in which])
        padded = torch.cat([rows, rows.new_zeros(-len(rows) % ROW_MULTIPLE, *rows.shape[1:])])
        out = self.ops.attention(padded, self.cache, meta or self.meta(which), self.config)
        return list(out[: len(rows)].split([self.counts[i] for i in which]))


def random_forks(dice: random.Random, count: int, deepest: int) -> list[Fork]:
    """Random ones, with decodes, short chunks and a few long ones."""
    made: list[Fork] = []
    lens: list[int] = []
    for _ in range(count):
        parent = dice.randrange(-1, len(made)) if made else -1
        shared = dice.randrange(lens[parent]) if parent >= 0 else 0
        step = dice.choice([1, 1, 1, 2, 5, 40])
        own = step + dice.randrange(deepest)
        made.append((parent, shared, own, step))
        lens.append(shared + own)
    return made


CASES: list[tuple[tuple[int, int, int], int, torch.dtype, dict[str, Any]]] = [
    ((9, 3, 64), 16, torch.bfloat16, {}),
    ((4, 4, 32), 16, torch.float32, {"sliding_window": 100}),
    ((8, 1, 33), 1, torch.bfloat16, {"soft_cap": 3.0}),
    ((6, 2, 16), 4, torch.float16, {"sinks": torch.linspace(-3, 3, 6), "sliding_window": 1}),
    ((6, 2, 80), 64, torch.bfloat16, {"alibi_slopes": torch.linspace(0.01, 0.5, 6)}),
    ((9, 3, 64), 128, torch.int8, {}),
    ((8, 2, 20), 8, torch.int8, {"sliding_window": 90, "soft_cap": 3.0}),
]


@pytest.mark.parametrize(("heads", "block_size", "dtype", "more"), CASES)
def test_company_on_a_prefix_does_not_show(
    ops: Ops, heads: tuple[int, int, int], block_size: int, dtype: torch.dtype, more: dict[str, Any]
) -> None:
    dice = random.Random(str(heads))
    for _ in range(3):
        tree = Tree(ops, random_forks(dice, 24, 200), AttentionConfig(*heads, 0.3, **more), block_size, dtype)
        everybody = list(range(24))
        dice.shuffle(everybody)
        for which in (everybody, everybody[:5]):
            for i, rows in zip(which, tree.attend(which), strict=True):
                assert torch.equal(rows, tree.attend([i])[0]), f"sequence {i} of {which}"


# -- what the plan of our kernel says ------------------------------------------------------------------------------------
@pytest.fixture
def cpu() -> Iterator[Ops]:
    """Our kernels on one thread: for many, less is put together."""
    if "cpu" not in kernels.usable("cpu"):
        pytest.skip("the kernels of the CPU backend cannot be compiled here")
    before = torch.get_num_threads()
    kernels.set_threads(1)
    yield kernels.load("cpu")
    kernels.set_threads(before)


def tiles_of(meta: AttentionMeta) -> int:
    """The tiles of keys and values that a step reads."""
    runs = meta.plan.runs
    return int((-(-(runs[:, 3] - runs[:, 2]) // TILE)).sum())


def test_a_shared_prefix_is_read_once(cpu: Ops) -> None:
    """Two prefixes of 512 tokens with 16 decodes each, of which four share 128 more; and one that shares nothing."""
    made = [(-1, 0, 700, 1), (-1, 0, 700, 1), *((i % 2, 640 if i < 6 else 512, 10, 1) for i in range(30)), (-1, 0, 65, 1)]
    tree, everybody = Tree(cpu, made, AttentionConfig(9, 3, 64, 0.3), 16, torch.bfloat16), list(range(33))
    meta = tree.meta(everybody)
    assert sum(-(-length // TILE) for length in tree.lens) == 2 * (4 * 11 + 12 * 9) + 2
    assert tiles_of(meta) == 2 * (8 + 2 + 16) + 2
    # It is read through one table: what those of the others say of it is never looked at.
    before = tree.attend(everybody, meta)
    readers = {int(meta.plan.members[first, 0]) for first, last, *_ in meta.plan.runs.tolist() if last - first > 1}
    assert 2 <= len(readers) <= 4
    for i in set(everybody) - readers - {32}:
        meta.block_tables[i, : 512 // 16] = tree.poison
    assert all(map(torch.equal, before, tree.attend(everybody, meta)))
    meta.block_tables[int(meta.plan.members[0, 0]), 0] = tree.poison
    assert sum(not rows.isfinite().all() for rows in tree.attend(everybody, meta)) == 16


def test_every_position_is_visited_once_and_in_order(cpu: Ops) -> None:
    dice = random.Random(0)
    for group in (1, 3, 8, 60):
        tree = Tree(cpu, random_forks(dice, 60, 300), AttentionConfig(group, 1, 16, 0.3), 16, torch.bfloat16)
        plan = tree.meta(list(range(60))).plan
        seen = {}
        for first, last, run, last_run in plan.items.tolist():
            reached = dict.fromkeys(range(first, last), 0)
            for one, end, start, stop in plan.runs[run:last_run].tolist():
                assert first <= one < end <= last
                assert start % TILE == 0
                for member in range(one, end):
                    assert reached[member] == start < stop
                    reached[member] = stop
            seen |= reached
        assert sorted(seen) == list(range(len(plan.members)))
        tokens = []
        for member, (sequence, offset, count) in enumerate(plan.members.tolist()):
            assert seen[member] == tree.lens[sequence] - tree.counts[sequence] + offset + count
            tokens += [(sequence, offset + i) for i in range(count)]
        assert sorted(tokens) == [(i, t) for i in range(60) for t in range(tree.counts[i])]


def test_prefixes_that_only_look_alike_are_not_shared(cpu: Ops) -> None:
    """The same content in blocks of each one's own, and blocks of this step, in which one row sees less than another."""
    shape = AttentionConfig(9, 3, 64, 0.3)
    apart = Tree(cpu, [(-1, 0, 300, 1)] * 20, shape, 16, torch.bfloat16)
    assert tiles_of(apart.meta(list(range(20)))) == 20 * 5
    written = Tree(cpu, [(-1, 0, 128, 1), *([(0, 128, 1, 1)] * 15)], shape, 16, torch.bfloat16)
    assert tiles_of(written.meta(list(range(16)))) < 16 * 2
    written.counts = [66, *([67] * 15)]
    assert tiles_of(written.meta(list(range(16)))) >= 16 * 2
