"""Triton's attention within texts against the reference's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from infer.kernels.cuda.segments import plan_segments, segment_attention
from infer.kernels.ops import ROW_MULTIPLE, AttentionConfig, PairBias, Rotation, Rows, ScaledRows, Segments
from infer.kernels.reference import segments as reference_segments

TOLERANCE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
    torch.float16: {"rtol": 3e-3, "atol": 3e-3},
}
LENGTHS = [5, 70, 1, 9]


def config_of(heads: int, kv_heads: int, dim: int, device: torch.device, *, alibi: bool = False, sinks: bool = False, **more: Any):
    slopes = torch.linspace(0.01, 0.5, heads, device=device) if alibi else None
    sunk = torch.linspace(-3, 3, heads, device=device) if sinks else None
    return AttentionConfig(heads, kv_heads, dim, dim**-0.5 * 1.5, alibi_slopes=slopes, sinks=sunk, **more)


def rows_of(config: AttentionConfig, count: int, dtype: torch.dtype, device: torch.device, *, strided: bool = False) -> Tensor:
    g = torch.Generator().manual_seed(count)
    width = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    rows = torch.randn(count + -count % ROW_MULTIPLE, width + 16 * strided, generator=g).to(dtype).to(device)
    return rows[:, 16:] if strided else rows


def turning(rows: Tensor, half: int) -> Rotation:
    angles = torch.outer(torch.arange(100.0), torch.rand(half, generator=torch.Generator().manual_seed(half))).to(rows.device)
    return Rotation(torch.arange(len(rows), device=rows.device) % 100, angles.cos(), angles.sin())


def segments_of(lengths: list[int], device: torch.device) -> Segments:
    return Segments(torch.tensor([0, *lengths]).cumsum(0).int().to(device))


def attend(qkv: Rows, rotation: Rotation | None, lengths: list[int], config: AttentionConfig, bias: PairBias | None = None) -> Tensor:
    x = qkv.values if isinstance(qkv, ScaledRows) else qkv
    segments = segments_of(lengths, x.device)
    segments.plan = plan_segments(segments, config.num_heads, config.num_kv_heads)
    out = segment_attention(qkv, rotation, segments, config, bias)
    assert out.dtype == x.dtype
    assert out.shape == (len(x), config.num_heads * config.head_dim)
    assert not out[sum(lengths) :].any()
    return out


def check(qkv: Rows, rotation: Rotation | None, lengths: list[int], config: AttentionConfig, bias: PairBias | None = None) -> None:
    mine = attend(qkv, rotation, lengths, config, bias)
    segments = segments_of(lengths, mine.device)
    segments.plan = reference_segments.plan_segments(segments, config.num_heads, config.num_kv_heads)
    expected = reference_segments.segment_attention(qkv, rotation, segments, config, bias)
    torch.testing.assert_close(mine, expected, **TOLERANCE[mine.dtype])


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "dtype", "half"),
    [
        (2, 2, 64, torch.bfloat16, 32),
        (3, 1, 32, torch.float32, None),
        (8, 1, 80, torch.float16, 20),
        (1, 1, 128, torch.bfloat16, None),
        (2, 1, 256, torch.float16, 128),
    ],
    ids=str,
)
def test_against_the_reference(device: torch.device, heads: int, kv_heads: int, dim: int, dtype: torch.dtype, half: int | None) -> None:
    config = config_of(heads, kv_heads, dim, device)
    rows = rows_of(config, sum(LENGTHS), dtype, device)
    check(rows, None if half is None else turning(rows, half), LENGTHS, config)


@pytest.mark.parametrize(
    "more",
    [
        {"sliding_window": 20},
        {"sliding_window": 1},
        {"alibi": True},
        {"soft_cap": 2.0},
        {"sinks": True},
        {"sliding_window": 33, "alibi": True, "soft_cap": 3.0},
    ],
    ids="+".join,
)
def test_variants(device: torch.device, more: dict[str, Any]) -> None:
    config = config_of(4, 2, 32, device, **more)
    rows = rows_of(config, sum(LENGTHS), torch.float32, device)
    check(rows, None, LENGTHS, config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("more", [{}, {"sliding_window": 33, "soft_cap": 3.0}], ids="+".join)
def test_a_bias_of_pairs(device: torch.device, more: dict[str, Any], dtype: torch.dtype) -> None:
    config = config_of(4, 2, 32, device, **more)
    rows = rows_of(config, sum(LENGTHS), dtype, device)
    table = torch.randn(4, 201, generator=torch.Generator().manual_seed(3)).to(device)
    check(rows, None, LENGTHS, config, PairBias(table.flatten(), torch.tensor([[100, 201, -1]] * len(LENGTHS), device=device)))
    lens = torch.tensor(LENGTHS, device=device)
    at = (lens * lens * 4).cumsum(0) - lens * lens * 4
    values = torch.randn(int((lens * lens).sum()) * 4, generator=torch.Generator().manual_seed(4)).to(device)
    check(rows, None, LENGTHS, config, PairBias(values, torch.stack([at, lens * lens, lens], 1)))


@pytest.mark.grid
@pytest.mark.parametrize("more", [{}, {"sliding_window": 50}, {"alibi": True}], ids="+".join)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("group", [1, 2, 4, 8])
@pytest.mark.parametrize("dim", [32, 64, 80, 96, 128, 256])
def test_grid(device: torch.device, dim: int, group: int, dtype: torch.dtype, more: dict[str, Any]) -> None:
    config = config_of(2 * group, 2, dim, device, **more)
    rows = rows_of(config, sum(LENGTHS), dtype, device)
    check(rows, turning(rows, dim // 2), LENGTHS, config)


def test_scaled_and_strided_rows(device: torch.device) -> None:
    config = config_of(4, 2, 32, device)
    rows = rows_of(config, 27, torch.bfloat16, device, strided=True)
    check(rows, None, [20, 7], config)
    scaled = ScaledRows(rows, torch.rand(len(rows), generator=torch.Generator().manual_seed(1)).to(device) + 0.5)
    check(scaled, None, [20, 7], config)
    check(scaled, turning(rows, 16), [20, 7], config)


@pytest.mark.parametrize("window", [None, 30])
def test_a_text_has_the_same_bits_in_any_company(device: torch.device, window: int | None) -> None:
    """And nothing of its neighbours reaches it, NaN least of all."""
    config = config_of(4, 2, 32, device, sliding_window=window)
    rows = rows_of(config, sum(LENGTHS), torch.bfloat16, device)
    whole = attend(rows, None, LENGTHS, config)
    first = LENGTHS[0]
    text = slice(first, first + LENGTHS[1])
    alone = torch.nn.functional.pad(rows[text], (0, 0, 0, -LENGTHS[1] % ROW_MULTIPLE), value=math.nan)
    assert torch.equal(attend(alone, None, LENGTHS[1:2], config)[: LENGTHS[1]], whole[text])
    poisoned = torch.full_like(rows, math.nan)
    poisoned[text] = rows[text]
    assert torch.equal(attend(poisoned, None, LENGTHS, config)[text], whole[text])


def test_empty_texts(device: torch.device) -> None:
    config = config_of(2, 1, 32, device)
    rows = rows_of(config, 25, torch.float32, device)
    together = attend(rows, None, [20, 5], config)
    assert torch.equal(attend(rows, None, [0, 20, 0, 0, 5, 0], config), together)
    assert not attend(rows, None, [], config).any()
