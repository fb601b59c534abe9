"""Decodes that share a prefix read it once, and no bit shows it."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch

from infer.core.memory.prefixes import SHARED_TOKENS, prefix_groups
from infer.kernels import reference
from infer.kernels.cuda.tiles import PIECE
from infer.kernels.ops import AttentionMeta, Prefixes

from .test_attention import TOLERANCE, Paged, config_of

#: The package's `attention` is the function.
cuda_attention = importlib.import_module("infer.kernels.cuda.attention")
#: Sequences of a step; 0, 2, 3 and 6 begin alike, 4 and 5 too, and those between are a chunk and one that shares nothing.
LENGTHS = [(1, 300), (5, 60), (1, 291), (1, 420), (1, 140), (1, 150), (1, 290), (1, 200)]
ALIKE = {0: ([2, 3, 6], 18), 4: ([5], 8)}


def groups_of(meta: AttentionMeta) -> Prefixes | None:
    arrays = (meta.block_tables.numpy(force=True), meta.kv_lens.numpy(force=True), meta.query_start.numpy(force=True))
    assert SHARED_TOKENS == PIECE
    found = prefix_groups(*arrays, meta.block_size, spared=0)
    return None if found is None else Prefixes(*(torch.from_numpy(part).to(meta.kv_lens.device) for part in found))


@pytest.mark.parametrize("options", [{}, {"alibi": True, "sinks": True, "soft_cap": 3.0}], ids=["plain", "options"])
def test_a_row_has_the_same_bits_in_company(device: torch.device, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    monkeypatch.setattr(cuda_attention, "ENOUGH_PROGRAMS", 0)
    paged = Paged(config_of(4, 2, 32, device, **options), LENGTHS, device, torch.float16)
    for first, (others, count) in ALIKE.items():
        paged.blocks[others, :count] = paged.blocks[first, :count]
    query, meta = paged.step()
    apart = {deterministic: paged.run(query, meta, deterministic=deterministic) for deterministic in (True, False)}
    meta.prefixes = prefixes = groups_of(meta)
    assert prefixes is not None
    starts, lengths = prefixes.starts.tolist(), prefixes.lengths.tolist()
    found = [(prefixes.members[a:b].tolist(), length) for a, b, length in zip(starts, starts[1:], lengths, strict=False)]
    assert sorted(found) == [([0, 2, 3, 6], 288), ([4, 5], 128)]
    assert prefixes.shared.tolist() == [288, 0, 288, 288, 128, 128, 288, 0]
    together = paged.run(query, meta, deterministic=True)
    assert torch.equal(together, apart[True])
    torch.testing.assert_close(paged.run(query, meta), apart[False], **TOLERANCE[torch.float16])
    meta.plan = reference.attention.plan_attention(meta, 4, 2)
    expected = reference.attention.attention(query, paged.reference, meta, paged.config)[: len(together)]
    torch.testing.assert_close(together, expected, **TOLERANCE[torch.float16])

    # What the others have of the whole pieces is not read: it may be NaN.
    for part in paged.cache:
        part[0] = math.nan
    for others, count in ALIKE.values():
        meta.block_tables[others, : count * paged.block_size // PIECE * PIECE // paged.block_size] = 0
    assert torch.equal(paged.run(query, meta, deterministic=True), together)
