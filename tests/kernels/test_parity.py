"""Every backend found against `reference`, and `reference` against plain formulas; every one row-wise to the bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from infer import kernels
from infer.kernels.ops import NULL_BLOCK, ROW_MULTIPLE, AttentionMeta, Ops, Penalties, SamplingRows

BACKENDS = kernels.available()
DTYPES = [torch.float32, torch.bfloat16]
CPU = torch.device("cpu")


@pytest.fixture(params=BACKENDS)
def ops(request: pytest.FixtureRequest) -> Ops:
    return kernels.load(request.param)


def test_an_unknown_backend_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'cdua'; available: .*reference"):
        kernels.load("cdua")


# -- row-wise operations: formula, and the same bits in any company ---------------------------------------------------
def rms(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * w.double()).to(x.dtype)


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    gate, up = x.double().chunk(2, -1)
    return (gate * torch.sigmoid(gate) * up).to(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [64, 100, 576])
def test_row_wise(ops: Ops, dtype: torch.dtype, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROW_MULTIPLE * 12, size, generator=generator).to(dtype) * 3
    other = torch.randn(x.shape, generator=generator).to(dtype)
    w = torch.randn(size, generator=generator).to(dtype)
    matrix = torch.randn(48, size, generator=generator).to(dtype)
    positions = torch.arange(len(x)) * 7 % 300
    angles = torch.outer(torch.arange(300).float(), torch.rand(size // 4, generator=generator))
    cos, sin = angles.cos(), angles.sin()

    def rope(x: torch.Tensor, first: int = 0) -> torch.Tensor:
        return ops.rope(x.view(len(x), 2, -1), positions[first : first + len(x)], cos, sin).flatten(1)

    operations: dict[str, Any] = {
        "rms_norm": lambda x, first=0: ops.rms_norm(x.clone(), w, 1e-5),
        "add_rms_norm": lambda x, first=0: torch.cat(ops.add_rms_norm(x.clone(), other[first : first + len(x)].clone(), w, 1e-5), -1),
        "silu_and_mul": lambda x, first=0: ops.silu_and_mul(x),
        "linear": lambda x, first=0: ops.linear(x, matrix, matrix[:, 0].contiguous()),
        "rope": rope,
    }
    rotated = x.double().view(len(x), 2, -1)
    c, s = cos[positions].double()[:, None], sin[positions].double()[:, None]
    half = size // 4
    a, b = rotated[..., :half], rotated[..., half : 2 * half]
    expected = {
        "rms_norm": rms(x, w),
        "add_rms_norm": torch.cat([rms(x + other, w), x + other], -1),
        "silu_and_mul": silu_mul(x),
        "linear": (x.double() @ matrix.double().T + matrix[:, 0].double()).to(dtype),
        "rope": torch.cat([a * c - b * s, b * c + a * s, rotated[..., 2 * half :]], -1).flatten(1).to(dtype),
    }
    for name, operation in operations.items():
        whole = operation(x)
        tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 2e-2}
        torch.testing.assert_close(whole, expected[name], **tolerance, msg=lambda m, name=name: f"{name}: {m}")
        for first in (0, 16, 112):
            for rows in (16, 32, 64):
                part = operation(x[first : first + rows].clone(), first)
                assert torch.equal(part, whole[first : first + rows]), f"{name} of {rows} rows from {first}"


def test_linear_in_fixed_chunks_gives_the_same(ops: Ops) -> None:
    x, w = torch.randn(176, 64), torch.randn(32, 64)
    whole = ops.linear(x, w, None)
    ops.row_chunk = 64
    torch.testing.assert_close(ops.linear(x, w, None), whole)


# -- attention --------------------------------------------------------------------------------------------------------
def paged(
    ops: Ops, lengths: list[tuple[int, int]], heads: int, kv_heads: int, dim: int, block_size: int, dtype: torch.dtype, seed: int
) -> Any:
    """Random sequences of (query length, context length) in shuffled blocks of a cache full of NaN."""
    g = torch.Generator().manual_seed(seed)
    most = max(-(-c // block_size) for _, c in lengths)
    blocks = torch.randperm(len(lengths) * most, generator=g).view(len(lengths), most).int() + 1
    for i, (_, c) in enumerate(lengths):
        blocks[i, -(-c // block_size) :] = NULL_BLOCK
    cache = ops.new_kv_cache(len(lengths) * most + 1, block_size, kv_heads, dim, dtype, CPU)
    cache.key[1:] = cache.value[1:] = float("nan")
    keys = [torch.randn(c, kv_heads, dim, generator=g).to(dtype) for _, c in lengths]
    values = [torch.randn(c, kv_heads, dim, generator=g).to(dtype) for _, c in lengths]
    queries = [torch.randn(q, heads, dim, generator=g).to(dtype) for q, _ in lengths]
    for i, (_, c) in enumerate(lengths):
        p = torch.arange(c)
        slots = blocks[i, p // block_size].long() * block_size + p % block_size
        ops.store_kv(keys[i], values[i], cache, meta_of([(c, c)], blocks[i : i + 1], block_size, slots))
    return queries, keys, values, blocks, cache


def meta_of(lengths: list[tuple[int, int]], blocks: torch.Tensor, block_size: int, slots: torch.Tensor) -> AttentionMeta:
    starts = torch.tensor([0, *torch.tensor([q for q, _ in lengths]).cumsum(0).tolist()], dtype=torch.int32)
    return AttentionMeta(starts, torch.tensor([c for _, c in lengths], dtype=torch.int32), blocks, slots, block_size)


def attend(
    ops: Ops, which: list[int], data: Any, lengths: list[tuple[int, int]], heads: int, kv_heads: int, block_size: int, window: int | None
) -> torch.Tensor:
    queries, _, _, blocks, cache = data
    rows = torch.cat([queries[i] for i in which])
    total = len(rows)
    rows = torch.cat([rows, rows.new_zeros(-total % ROW_MULTIPLE, *rows.shape[1:])])
    meta = meta_of([lengths[i] for i in which], blocks[which], block_size, torch.zeros(total, dtype=torch.int64))
    meta.plan = ops.plan_attention(meta, heads, kv_heads)
    out = ops.attention(rows, cache, meta, 0.3, window)
    assert torch.equal(out[total:], torch.zeros_like(out[total:]))
    return out[:total]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (4, 4, 16), (8, 1, 20), (5, 5, 128)])
@pytest.mark.parametrize(("block_size", "window"), [(16, None), (1, None), (32, 50), (8, 1)])
def test_attention(ops: Ops, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, block_size: int, window: int | None) -> None:
    lengths = [(1, 1), (1, 64), (1, 65), (17, 17), (70, 200), (5, 300), (130, 130), (1, 191), (16, 129)]
    data = paged(ops, lengths, heads, kv_heads, dim, block_size, dtype, seed=heads)
    whole = attend(ops, list(range(len(lengths))), data, lengths, heads, kv_heads, block_size, window)
    assert whole.dtype == dtype
    row = 0
    for i, (q_len, context) in enumerate(lengths):
        k = data[1][i].double().repeat_interleave(heads // kv_heads, 1)
        v = data[2][i].double().repeat_interleave(heads // kv_heads, 1)
        scores = torch.einsum("qhd,khd->hqk", data[0][i].double(), k) * 0.3
        position = torch.arange(context - q_len, context)[:, None]
        seen = torch.arange(context) <= position
        if window:
            seen &= torch.arange(context) > position - window
        expected = torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -math.inf).softmax(-1), v).to(dtype)
        tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-2}
        torch.testing.assert_close(whole[row : row + q_len], expected, **tolerance)
        assert torch.equal(attend(ops, [i], data, lengths, heads, kv_heads, block_size, window), whole[row : row + q_len])
        row += q_len


def test_attention_of_a_chunk_is_that_of_the_whole(ops: Ops) -> None:
    data = paged(ops, [(200, 200)], 6, 2, 32, 16, torch.float32, seed=1)
    whole = attend(ops, [0], data, [(200, 200)], 6, 2, 16, None)
    for start, end in [(0, 1), (0, 64), (63, 65), (100, 200), (199, 200)]:
        part = ([data[0][0][start:end]], *data[1:])
        assert torch.equal(attend(ops, [0], part, [(end - start, end)], 6, 2, 16, None), whole[start:end])


def test_copy_blocks_reads_all_before_it_writes(ops: Ops) -> None:
    cache = ops.new_kv_cache(6, 4, 2, 8, torch.float32, CPU)
    assert not cache.key[NULL_BLOCK].any()
    assert not cache.value[NULL_BLOCK].any()
    for tensor in cache:
        tensor[1:] = torch.randn(tensor[1:].shape)
    before = [t.clone() for t in cache]
    ops.copy_blocks(cache, torch.tensor([1, 2, 5]), torch.tensor([2, 3, 1]))
    for old, new in zip(before, cache, strict=True):
        assert torch.equal(new[[2, 3, 1]], old[[1, 2, 5]])
        assert torch.equal(new[[4, 5]], old[[4, 5]])


# -- sampling ---------------------------------------------------------------------------------------------------------
def plain_sample(logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float, u: float) -> int:
    """The same rules on Python floats, one row."""
    values = logits.double().tolist()
    if temperature == 0:
        return values.index(max(values))
    weights = torch.softmax(logits / temperature, -1).tolist()
    weights = [w if w >= min_p * max(weights) else 0.0 for w in weights]
    if top_k:
        kth = sorted(weights, reverse=True)[min(top_k, len(weights)) - 1]
        weights = [w if w >= kth else 0.0 for w in weights]
    if top_p < 1:
        total, kept = sum(weights), 0.0
        for w in sorted(weights, reverse=True):
            kept += w
            if kept >= top_p * total - 1e-12:
                weights = [x if x >= w else 0.0 for x in weights]
                break
    target, running = u * sum(weights), 0.0
    for token, w in enumerate(weights):
        running += w
        if running > target:
            return token
    return max(i for i, w in enumerate(weights) if w)


def rows_of(settings: list[tuple[float, int, float, float, float]]) -> SamplingRows:
    t, k, p, m, u = zip(*settings, strict=True)
    return SamplingRows(
        torch.tensor(t, dtype=torch.float32),
        torch.tensor(k),
        torch.tensor(p, dtype=torch.float32),
        torch.tensor(m, dtype=torch.float32),
        torch.tensor(u, dtype=torch.float64),
        all(x == 0 for x in t),
        any(x > 0 for x in k) or any(x < 1 for x in p) or any(x > 0 for x in m),
    )


def test_sampling_against_plain_rules_in_any_company(ops: Ops) -> None:
    g = torch.Generator().manual_seed(0)
    settings = []
    for i in range(300):
        u = torch.rand(1, generator=g, dtype=torch.float64).item()
        settings.append(
            ([0.0, 0.7, 1.0, 1.8][i % 4], [0, 1, 5, 400, 5000][i % 5], [1.0, 0.9, 0.3, 0.999][i // 3 % 4], [0.0, 0.05, 1.0][i // 7 % 3], u)
        )
    logits = torch.randn(300, 1000, generator=g) * torch.linspace(0.1, 6, 300)[:, None]
    logits[::6] = logits[::6].round()  # ties
    drawn = ops.sample(logits.clone(), rows_of(settings)).tolist()
    expected = [plain_sample(row, *s) for row, s in zip(logits, settings, strict=True)]
    assert drawn == expected
    for i in range(0, 300, 17):
        assert ops.sample(logits[i : i + 1].clone(), rows_of(settings[i : i + 1])).tolist() == drawn[i : i + 1]
        some = slice(i, i + 3)
        assert ops.sample(logits[some].clone(), rows_of(settings[some])).tolist() == drawn[some]


def test_greedy_ties_go_to_the_lowest_id(ops: Ops) -> None:
    logits = torch.zeros(2, 50)
    logits[0, [40, 7, 9]] = 3
    assert ops.sample(logits, rows_of([(0, 0, 1, 0, 0.5), (0, 0, 1, 0, 0.5)])).tolist() == [7, 0]


def test_masked_tokens_are_never_drawn(ops: Ops) -> None:
    logits = torch.full((3, 20), -math.inf)
    logits[:, 4] = -2.0
    edges = [(1.0, 0, 1.0, 0.0, 0.0), (1.0, 0, 1.0, 0.0, 1 - 2**-53), (0.0, 0, 1.0, 0.0, 0.3)]
    assert ops.sample(logits, rows_of(edges)).tolist() == [4, 4, 4]


def test_draws_follow_the_distribution(ops: Ops) -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, -3.0]).expand(20000, 5).contiguous()
    u = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).tolist()
    counts = torch.bincount(ops.sample(logits.clone(), rows_of([(1.0, 0, 1.0, 0.0, x) for x in u])), minlength=5)
    expected = torch.softmax(logits[0], -1) * 20000
    assert float(((counts - expected) ** 2 / expected).sum()) < 23.5  # chi-square with 4 degrees of freedom: 1 in 10,000


def test_penalties(ops: Ops) -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0, 0.0], [2.0, -2.0, 1.0, 0.0]])
    penalties = Penalties(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2]), torch.tensor([2.0, 2.0, 1.0]), torch.tensor([0.0, 0.5, 1.5]))
    ops.apply_penalties(logits, penalties)
    assert logits.tolist() == [[1.0, -4.5, 1.0, 0.0], [2.0, -2.0, -0.5, 0.0]]
