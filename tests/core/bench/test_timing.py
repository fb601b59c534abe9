"""Stopwatches at a backend's operations: the same results, and work counted from shapes."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from infer import kernels
from infer.core.bench.timing import OpKey, TimedOps, linear_work
from infer.kernels.grouped import GroupedWeight, Scales
from infer.kernels.ops import AttentionConfig, AttentionMeta, Ops, ScaledRows, Segments

BLOCK = 16


@pytest.fixture
def timed() -> TimedOps:
    return TimedOps(kernels.load("reference"))


def as_ops(timed: TimedOps) -> Ops:
    return cast(Ops, timed)


def test_off_it_counts_nothing(timed: TimedOps) -> None:
    x = torch.randn(16, 8)
    assert torch.equal(as_ops(timed).rms_norm(x, torch.ones(8), 1e-6), timed.plain.rms_norm(x, torch.ones(8), 1e-6))  # type: ignore[arg-type]
    assert timed.times == {}
    assert timed.name == "reference"


def test_settings_reach_the_backend(timed: TimedOps) -> None:
    timed.row_chunk = 64
    assert timed.plain.row_chunk == timed.row_chunk == 64
    timed.deterministic = True
    assert timed.plain.deterministic
    assert timed.deterministic


def test_linear_layers_by_shape(timed: TimedOps) -> None:
    ops = as_ops(timed)
    weight = ops.pack_weight(torch.randn(24, 8))
    timed.on = True
    for rows in (16, 32):
        ops.linear(torch.randn(rows, 8), weight, None)
    time = timed.times[OpKey("linear", (8, 24))]
    assert (time.calls, time.flops, time.bytes) == (2, 2 * 48 * 8 * 24, 2 * 8 * 24 * 4)
    assert time.seconds > 0


def test_int8_weights_take_a_byte() -> None:
    x = ScaledRows(torch.zeros(16, 8, dtype=torch.uint8), torch.ones(16))
    work = linear_work("linear_int8", x, torch.zeros(16, 24))
    assert (work.key, work.flops, work.bytes) == (OpKey("linear_int8", (8, 24), in_int8=True), 2 * 16 * 8 * 24, 8 * 24)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("in_int8", [False, True])
def test_weights_in_groups_take_what_they_are_stored_in(backend: str, *, in_int8: bool) -> None:
    timed = TimedOps(kernels.load(backend))
    ops = as_ops(timed)
    if why := ops.grouped_refusal(64, 32, quantize_input=in_int8):
        pytest.skip(why)
    weight = GroupedWeight(torch.randint(0, 256, (32, 64), dtype=torch.uint8), 8, 32, Scales(torch.ones(32, 2, dtype=torch.float16)))
    packed = ops.pack_grouped(weight, torch.float32, quantize_input=in_int8)
    timed.on = True
    ops.linear_grouped(torch.randn(16, 64), packed, None)
    ((key, time),) = timed.times.items()
    assert (key, time.calls, time.flops) == (OpKey("linear_grouped", (64, 32), in_int8=in_int8), 1, 2 * 16 * 64 * 32)
    assert time.bytes == 32 * 64 + 2 * 32 * 2


def test_rows_in_and_out(timed: TimedOps) -> None:
    timed.on = True
    as_ops(timed).add_rms_norm(torch.randn(16, 8), torch.randn(16, 8), torch.ones(8), 1e-6)
    assert timed.times[OpKey("add_rms_norm")].bytes == 4 * (4 * 16 * 8 + 8)


def attend(timed: TimedOps, counts: list[int], lens: list[int], window: int | None = None) -> Any:
    """The totals of one attention call over sequences of which the last `counts` of `lens` tokens are new."""
    ops = as_ops(timed)
    config = AttentionConfig(4, 2, 8, 1.0, sliding_window=window)
    most = max(-(-n // BLOCK) for n in lens)
    meta = AttentionMeta(
        query_start=torch.tensor([0, *counts]).cumsum(0).to(torch.int32),
        kv_lens=torch.tensor(lens, dtype=torch.int32),
        block_tables=torch.arange(1, 1 + most * len(lens), dtype=torch.int32).view(len(lens), most),
        slots=torch.zeros(sum(counts), dtype=torch.int64),
        block_size=BLOCK,
    )
    cache = ops.new_kv_cache(1 + most * len(lens), BLOCK, 2, 8, torch.float32, torch.device("cpu"))
    for part in cache:
        part.zero_()
    rows = -(-sum(counts) // BLOCK) * BLOCK
    timed.on = True
    meta.plan = ops.plan_attention(meta, 4, 2)
    for _ in range(2):  # as two layers
        ops.attention(torch.randn(rows, 4, 8), cache, meta, config)
    return timed.times[OpKey("attention")]


def test_attention_counts_visible_keys(timed: TimedOps) -> None:
    time = attend(timed, counts=[1, 3], lens=[5, 3])
    pairs = 5 + (1 + 2 + 3)
    assert time.calls == 2
    assert time.flops == 2 * 4 * pairs * 4 * 8
    assert time.bytes == 2 * (5 + 3) * 2 * 8 * (4 + 4)


def test_attention_within_a_window(timed: TimedOps) -> None:
    time = attend(timed, counts=[1, 3], lens=[5, 6], window=2)
    pairs = 2 + (2 + 2 + 2)
    tokens = 2 + 4  # the three queries together see four
    assert time.flops == 2 * 4 * pairs * 4 * 8
    assert time.bytes == 2 * tokens * 2 * 8 * (4 + 4)


@pytest.mark.parametrize("window", [None, 1, 2, 3, 99])
def test_segment_attention_counts_the_pairs_of_a_text(timed: TimedOps, window: int | None) -> None:
    ops = as_ops(timed)
    config = AttentionConfig(4, 2, 8, 1.0, sliding_window=window)
    lens = [5, 0, 1, 3]
    segments = Segments(torch.tensor([0, *lens]).cumsum(0).to(torch.int32))
    timed.on = True
    segments.plan = ops.plan_segments(segments, 4, 2)
    for _ in range(2):
        ops.segment_attention(torch.randn(16, 8 * 8), None, segments, config)
    pairs = sum(abs(i - j) < (window or 99) for n in lens for i in range(n) for j in range(n))
    time = timed.times[OpKey("segment_attention")]
    assert (time.calls, time.flops, time.bytes) == (2, 2 * 4 * pairs * 4 * 8, 2 * sum(lens) * 2 * 2 * 8 * 4)


def test_packed_experts_count_the_bytes_of_those_that_have_rows(timed: TimedOps) -> None:
    ops = as_ops(timed)
    weights = [GroupedWeight(torch.zeros(24, 64, dtype=torch.uint8), 8, 32, Scales(torch.ones(24, 2))) for _ in range(3)]
    packed = [ops.pack_grouped(weight, torch.float32, quantize_input=True) for weight in weights]
    timed.on = True
    ops.linear_experts_grouped(torch.randn(16, 64), packed, torch.tensor([0, 9, 9, 16]), None)
    (time,) = timed.times.values()
    assert [*timed.times] == [OpKey("linear_experts_grouped", (64, 24), in_int8=True)]
    assert (time.flops, time.bytes) == (2 * 16 * 64 * 24, 2 * (24 * 64 + 24 * 2 * 4))
