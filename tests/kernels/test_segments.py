"""Attention within whole texts, of every backend: against plain formulas in float64 and torch's own, and to the bit in any company."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infer import kernels
from infer.kernels.ops import ROW_MULTIPLE, AttentionConfig, Ops, PairBias, Rotation, Rows, ScaledRows, Segments

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2e-2, "atol": 1.5e-2},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
}
#: Tokens of the texts in most tests: around the borders of what kernels work on at a time, and beyond.
LENGTHS = [1, 15, 16, 17, 63, 64, 65, 300, 2, 33]
SHORT = [5, 1, 17, 70, 16, 130]


@pytest.fixture(params=kernels.usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return kernels.load(request.param)


def config(heads: int = 6, kv_heads: int = 2, dim: int = 32, **more: Any) -> AttentionConfig:
    return AttentionConfig(heads, kv_heads, dim, 0.3, **more)


class Texts:
    """Random texts, and what attention within them gives: by a backend, and by the formula."""

    def __init__(
        self,
        lengths: list[int],
        config: AttentionConfig,
        dtype: torch.dtype,
        *,
        rotated: int | None = None,
        scaled: bool = False,
        bias: str = "",
    ) -> None:
        g = torch.Generator().manual_seed(config.num_heads)
        width = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        self.lengths, self.config, self.dtype = lengths, config, dtype
        self.rows = [torch.randn(n, width, generator=g).to(dtype) for n in lengths]
        self.scales = [torch.rand(n, generator=g) + 0.5 for n in lengths] if scaled else None
        angles = torch.outer(torch.arange(max(lengths) * 1.0), torch.rand(rotated or 0, generator=g))
        self.tables = (angles.cos(), angles.sin()) if rotated else None
        #: Of pairs of tokens, [H, n, n] for each text; of "distance" from a table for all.
        most = max(lengths)
        self.by_distance = torch.randn(config.num_heads, 2 * most - 1, generator=g) if bias == "distance" else None
        self.biases = [torch.randn(config.num_heads, n, n, generator=g) for n in lengths] if bias == "pairs" else None
        if self.by_distance is not None:
            self.biases = [self.by_distance[:, most - 1 + torch.arange(n) - torch.arange(n)[:, None]] for n in lengths]

    def attend(self, ops: Ops, which: list[int] | None = None, *, padding: float = 7.0) -> list[Tensor]:
        """[n, H * D] of each of the texts `which`, in that order, in one step. Rows that pad it are filled with `padding`."""
        which = list(range(len(self.lengths))) if which is None else which
        c, lens = self.config, [self.lengths[i] for i in which]
        starts = torch.tensor([0, *torch.tensor(lens, dtype=torch.int64).cumsum(0).tolist()], dtype=torch.int32)
        total = int(starts[-1])
        pad = -total % ROW_MULTIPLE or ROW_MULTIPLE
        values = F.pad(torch.cat([self.rows[i] for i in which]), (0, 0, 0, pad), value=padding)
        qkv: Rows = values
        if self.scales is not None:
            qkv = ScaledRows(values, F.pad(torch.cat([self.scales[i] for i in which]), (0, pad), value=padding))
        rotation = None
        if self.tables is not None:
            positions = torch.cat([torch.arange(n) for n in [*lens, pad]]) % len(self.tables[0])
            rotation = Rotation(positions, *self.tables)
        segments = Segments(starts)
        segments.plan = ops.plan_segments(segments, c.num_heads, c.num_kv_heads)
        out = ops.segment_attention(qkv, rotation, segments, c, self.bias(which))
        assert out.dtype == self.dtype
        assert out.shape == (total + pad, c.num_heads * c.head_dim)
        assert not out[total:].any()
        return list(out[:total].split(lens))

    def bias(self, which: list[int]) -> PairBias | None:
        if self.by_distance is not None:
            width = self.by_distance.shape[1]
            return PairBias(self.by_distance.flatten(), torch.tensor([[width // 2, width, -1]] * len(which)))
        if self.biases is None:
            return None
        at = torch.tensor([0, *(self.biases[i].numel() for i in which)]).cumsum(0)[:-1]
        lens = torch.tensor([self.lengths[i] for i in which])
        return PairBias(torch.cat([self.biases[i].flatten() for i in which]), torch.stack([at, lens * lens, lens], 1))

    def heads(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [heads, n, D] of text i as attention takes them, in float64; keys and values repeated."""
        c = self.config
        rows = self.rows[i].double() * (self.scales[i].double()[:, None] if self.scales is not None else 1)
        q, k, v = rows.unflatten(1, (-1, c.head_dim)).transpose(0, 1).split([c.num_heads, c.num_kv_heads, c.num_kv_heads])
        if self.tables is not None:
            q, k = self._turned(q), self._turned(k)
        q, k, v = (x.to(self.dtype).double() for x in (q, k, v))
        group = c.num_heads // c.num_kv_heads
        return q, k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)

    def _turned(self, x: Tensor) -> Tensor:
        assert self.tables is not None
        c, s = (table.double()[: x.shape[1]] for table in self.tables)
        half = c.shape[1]
        a, b = x[..., :half], x[..., half : 2 * half]
        return torch.cat([a * c - b * s, b * c + a * s, x[..., 2 * half :]], -1)

    def expected(self, i: int) -> Tensor:
        """Text i by the formula, in float64."""
        c, n = self.config, self.lengths[i]
        q, k, v = self.heads(i)
        scores = torch.einsum("hqd,hkd->hqk", q, k) * c.scale
        if c.soft_cap:
            scores = torch.tanh(scores / c.soft_cap) * c.soft_cap
        distance = (torch.arange(n)[:, None] - torch.arange(n)).abs()
        if c.alibi_slopes is not None:
            scores = scores - c.alibi_slopes.double()[:, None, None] * distance
        if self.biases is not None:
            scores = scores + self.biases[i]
        if c.sliding_window:
            scores = scores.masked_fill(distance >= c.sliding_window, -math.inf)
        if c.sinks is not None:
            scores = torch.cat([scores, c.sinks.double()[:, None, None].expand(-1, n, 1)], -1)
            v = torch.cat([v, torch.zeros_like(v[:, :1])], 1)
        return torch.einsum("hqk,hkd->qhd", scores.softmax(-1), v).flatten(1).to(self.dtype)

    def check(self, ops: Ops) -> None:
        """Every text against the formula; and some alone, to the bit."""
        whole = self.attend(ops)
        for i, mine in enumerate(whole):
            torch.testing.assert_close(mine, self.expected(i), **TOLERANCE[self.dtype])
        for i in range(0, len(whole), 3):
            assert torch.equal(self.attend(ops, [i])[0], whole[i]), f"text {i} alone"


# -- against formulas -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(12, 12, 32), (6, 2, 96), (4, 1, 20), (3, 3, 33), (2, 1, 128), (2, 2, 16)])
def test_against_the_formula(ops: Ops, dtype: torch.dtype, heads: int, kv_heads: int, dim: int) -> None:
    Texts(LENGTHS, config(heads, kv_heads, dim), dtype).check(ops)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "more",
    [
        {"soft_cap": 2.0},
        {"alibi_slopes": torch.linspace(0.01, 0.5, 6)},
        {"sinks": torch.linspace(-3, 3, 6)},
        {"sliding_window": 1},
        {"sliding_window": 65},
        {"sinks": torch.linspace(-3, 3, 6), "soft_cap": 5.0, "sliding_window": 20},
        {"alibi_slopes": torch.linspace(0.01, 0.5, 6), "sliding_window": 64},
    ],
    ids="+".join,
)
def test_variants(ops: Ops, dtype: torch.dtype, more: dict[str, Any]) -> None:
    Texts([*SHORT, 700], config(6, 2, 32, **more), dtype).check(ops)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize(("dim", "rotated"), [(64, 32), (40, 10), (33, 16), (33, None), (32, None)])
def test_rotated_and_scaled_rows(ops: Ops, dtype: torch.dtype, scaled: bool, dim: int, rotated: int | None) -> None:
    Texts(SHORT, config(4, 2, dim), dtype, rotated=rotated, scaled=scaled).check(ops)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", ["pairs", "distance"])
@pytest.mark.parametrize("more", [{}, {"soft_cap": 2.0, "sliding_window": 65, "sinks": torch.linspace(-3, 3, 6)}], ids="+".join)
def test_a_bias_of_pairs(ops: Ops, dtype: torch.dtype, bias: str, more: dict[str, Any]) -> None:
    Texts([*SHORT, 700], config(6, 2, 32, **more), dtype, bias=bias).check(ops)


def test_nothing_beyond_a_table_of_biases_is_read(ops: Ops) -> None:
    texts = Texts([5, 70], config(6, 2, 32), torch.float32, bias="pairs")
    alone = texts.attend(ops)
    assert texts.biases is not None
    for poisoned in (0, 1):
        kept = texts.biases[poisoned].clone()
        texts.biases[poisoned].fill_(math.nan)
        assert torch.equal(texts.attend(ops)[1 - poisoned], alone[1 - poisoned])
        texts.biases[poisoned] = kept


@pytest.mark.parametrize("name", kernels.usable("cpu"))
def test_against_torch(name: str) -> None:
    texts = Texts([*LENGTHS, 1000], config(8, 4, 64), torch.float32)
    for i, mine in enumerate(texts.attend(kernels.load(name))):
        q, k, v = (x.float()[None] for x in texts.heads(i))
        theirs = F.scaled_dot_product_attention(q, k, v, scale=texts.config.scale)[0].transpose(0, 1).flatten(1)
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 100])
def test_a_long_text(ops: Ops, window: int | None) -> None:
    Texts([1000, 9, 1600], config(2, 1, 32, sliding_window=window), torch.bfloat16, rotated=16).check(ops)


def test_large_scores_do_not_overflow(ops: Ops) -> None:
    texts = Texts([200, 600], AttentionConfig(4, 4, 32, 60.0), torch.float32)
    for i, mine in enumerate(texts.attend(ops)):
        torch.testing.assert_close(mine, texts.expected(i), rtol=1e-3, atol=2e-3)


def test_a_negative_scale(ops: Ops) -> None:
    Texts(SHORT, AttentionConfig(4, 4, 32, -0.3), torch.float32).check(ops)


def test_one_token_gets_its_own_value(ops: Ops) -> None:
    for dtype in DTYPES:
        texts = Texts([1], config(4, 4, 32), dtype)
        assert torch.equal(texts.attend(ops)[0], texts.rows[0][:, -4 * 32 :])


# -- in any company ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("more", [{}, {"sliding_window": 40, "soft_cap": 3.0}], ids=["plain", "window"])
def test_neighbours_and_place_do_not_show(ops: Ops, dtype: torch.dtype, more: dict[str, Any]) -> None:
    texts = Texts([*SHORT, 530], config(6, 2, 32, **more), dtype, rotated=16)
    whole = texts.attend(ops)
    count = len(whole)
    for which in [list(range(count))[::-1], [3, 0, 3, 5], [6, 1], [1, 6], [2] * 40 + [6], list(range(count)) * 5]:
        for i, mine in zip(which, texts.attend(ops, which, padding=math.nan), strict=True):
            assert torch.equal(mine, whole[i]), f"text {i} of {which}"


def test_threads_do_not_show(ops: Ops) -> None:
    texts = Texts([*LENGTHS, 900], config(4, 2, 32), torch.bfloat16)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 16):
            kernels.set_threads(threads)
            results.append(torch.cat(texts.attend(ops)))
    finally:
        kernels.set_threads(before)
    assert all(torch.equal(other, results[0]) for other in results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_a_bad_text_harms_itself_alone(ops: Ops, dtype: torch.dtype, poison: float, scaled: bool) -> None:
    texts = Texts(SHORT, config(6, 2, 32), dtype, rotated=16, scaled=scaled)
    before = texts.attend(ops)
    for bad in (1, 3, 5):
        kept = texts.rows[bad].clone()
        texts.rows[bad][-1] = poison
        after = texts.attend(ops)
        assert all(torch.equal(after[i], before[i]) for i in range(len(SHORT)) if i != bad)
        assert after[bad].isnan().any(-1).all()
        texts.rows[bad] = kept


def test_a_bad_key_is_not_lost(ops: Ops) -> None:
    """A text that holds NaN anywhere must show it: a row that looked finite would be a wrong answer."""
    for dtype in DTYPES:
        texts = Texts([70, 600], config(2, 2, 32), dtype)
        for i, place in [(0, 0), (0, 69), (1, 300), (1, 599)]:
            kept = texts.rows[i].clone()
            texts.rows[i][place, 64:] = math.nan  # key and value, not the query
            assert texts.attend(ops)[i].isnan().all()
            texts.rows[i] = kept


def test_no_texts_and_empty_ones(ops: Ops) -> None:
    texts = Texts([0, 20, 0, 0, 3, 0], config(4, 2, 32), torch.bfloat16)
    whole = texts.attend(ops)
    assert [len(mine) for mine in whole] == [0, 20, 0, 0, 3, 0]
    assert torch.equal(texts.attend(ops, [1])[0], whole[1])
    assert texts.attend(ops, [0, 2])[0].shape == (0, 128)


def test_quantized_models_scales_reach_values(ops: Ops) -> None:
    """Rows as an int8 layer passes them on."""
    if not ops.supports_int8():
        pytest.skip("no exact int8 dot products here")
    g = torch.Generator().manual_seed(0)
    x, weight = torch.randn(32, 64, generator=g).bfloat16(), torch.randn(3 * 64, 64, generator=g).bfloat16()
    product = ops.linear_int8(ops.quantize(x), ops.pack_int8(weight), None, torch.bfloat16)
    assert isinstance(product, ScaledRows)
    segments = Segments(torch.tensor([0, 10, 30], dtype=torch.int32))
    segments.plan = ops.plan_segments(segments, 2, 2)
    c = config(2, 2, 32)
    scaled = ops.segment_attention(product, None, segments, c)
    plain = ops.segment_attention((product.values.float() * product.scale[:, None]).bfloat16(), None, segments, c)
    torch.testing.assert_close(scaled, plain, rtol=2e-2, atol=5e-2)
