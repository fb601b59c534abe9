"""Operations at the shapes of models, and beyond 2^31 elements, against float32: for a GPU. The interpreter gets the same in small."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
import triton
from torch import Tensor

from infer.kernels import load
from infer.kernels.ops import AttentionConfig, AttentionMeta, KVCache, Ops, Rows, SamplingRows, ScaledRows

INTERPRETED = triton.knobs.runtime.interpret
BLOCK_SIZE = 16


@dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    dim: int
    sequences: int
    context: int
    """Tokens of a sequence, more or less by a quarter."""
    tokens: int = 1
    """Of each sequence in the step."""


SHAPES = {
    "SmolLM2, prompts": Shape(9, 3, 64, 32, 256, 256),
    "SmolLM2, decodes": Shape(9, 3, 64, 256, 256),
    "Llama-3-8B, decodes": Shape(32, 8, 128, 256, 1024),
    "Llama-3-8B, few decodes": Shape(32, 8, 128, 8, 8192),
    "Llama-3-8B, a prompt": Shape(32, 8, 128, 1, 4096, 4096),
    "Llama-3-8B, ends of prompts": Shape(32, 8, 128, 16, 2048, 512),
    "heads of 256": Shape(8, 4, 256, 64, 512),
}
NAMES = ["SmolLM2, prompts"] if INTERPRETED else list(SHAPES)


@pytest.fixture
def ops() -> Ops:
    return load("cuda")


def distance(got: Tensor, want: Tensor) -> float:
    """Relative, of all elements together; of what is not finite infinite."""
    apart = (got.float() - want.float()).norm() / want.float().norm().clamp_min(1e-9)
    return float(apart) if bool(torch.isfinite(got).all()) else math.inf


def values(rows: Rows) -> Tensor:
    return rows.values.float() * rows.scale[:, None] if isinstance(rows, ScaledRows) else rows


def meta_of(lengths: list[int], tokens: int, tables: Tensor) -> AttentionMeta:
    """`tokens` of each sequence are the step's."""
    device = tables.device
    rows = tokens * len(lengths)
    starts = torch.arange(0, rows + 1, tokens, dtype=torch.int32, device=device)
    last = torch.tensor(lengths, device=device)[:, None] - tokens + torch.arange(tokens, device=device)
    slots = tables.long().gather(1, last // BLOCK_SIZE) * BLOCK_SIZE + last % BLOCK_SIZE
    return AttentionMeta(starts, torch.tensor(lengths, dtype=torch.int32, device=device), tables, slots.flatten(), BLOCK_SIZE)


def expected(query: Tensor, cache: KVCache, meta: AttentionMeta, config: AttentionConfig, sequence: int) -> Tensor:
    """Of one sequence's rows, in float32."""
    first, last = meta.query_start[sequence : sequence + 2].tolist()
    length, group = int(meta.kv_lens[sequence]), config.num_heads // config.num_kv_heads
    blocks = meta.block_tables[sequence, : -(-length // BLOCK_SIZE)].long()
    parts = (part[blocks].transpose(1, 2).flatten(0, 1)[:length].float() for part in cache)
    key, value = (part.repeat_interleave(group, 1) for part in parts)
    scores = torch.einsum("qhd,khd->hqk", query[first:last].float(), key) * config.scale
    place = torch.arange(length, device=query.device)
    scores.masked_fill_(place > place[length - (last - first) :, None], -math.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_attention(ops: Ops, device: torch.device, name: str, deterministic: bool) -> None:
    shape = SHAPES[name]
    if INTERPRETED:
        shape = replace(shape, sequences=2, context=60, tokens=min(shape.tokens, 24))
    ops.deterministic = deterministic
    dice = torch.Generator().manual_seed(0)
    spread = (0.75 + 0.5 * torch.rand(shape.sequences, generator=dice)).tolist()
    lengths = [max(shape.tokens, int(shape.context * one)) for one in spread]
    width = -(-max(lengths) // BLOCK_SIZE)
    tables = torch.randperm(shape.sequences * width, generator=dice).view(-1, width).int() + 1
    cache = ops.new_kv_cache(tables.numel() + 1, BLOCK_SIZE, shape.kv_heads, shape.dim, torch.bfloat16, device)
    for part in cache:
        part[1:].normal_()
    meta = meta_of(lengths, shape.tokens, tables.to(device))
    meta.plan = ops.plan_attention(meta, shape.heads, shape.kv_heads)
    config = AttentionConfig(shape.heads, shape.kv_heads, shape.dim, shape.dim**-0.5)
    query = torch.randn(-(-shape.sequences * shape.tokens // 16) * 16, shape.heads, shape.dim, device=device).bfloat16()
    out = ops.attention(query, cache, meta, config)
    for sequence in {0, shape.sequences // 2, shape.sequences - 1}:
        rows = slice(*meta.query_start[sequence : sequence + 2].tolist())
        assert distance(out[rows], expected(query, cache, meta, config, sequence)) < 1e-2


def test_a_cache_of_more_than_31_bits(ops: Ops, device: torch.device) -> None:
    """Its last blocks are written, read and copied: an offset that is cut to 31 bits would be another place of it."""
    config = AttentionConfig(4, 1, 32, 32**-0.5) if INTERPRETED else AttentionConfig(32, 8, 128, 128**-0.5)
    blocks = 40 if INTERPRETED else (3 << 31) // (BLOCK_SIZE * config.num_kv_heads * config.head_dim)
    if not INTERPRETED and torch.cuda.mem_get_info()[0] < 28 << 30:
        pytest.skip("needs 28 GiB of GPU memory")
    cache = ops.new_kv_cache(blocks, BLOCK_SIZE, config.num_kv_heads, config.head_dim, torch.bfloat16, device)
    tables = torch.tensor([[blocks - 1, blocks // 2, blocks - 7]], dtype=torch.int32, device=device)
    meta = meta_of([40], 40, tables)
    qkv = torch.randn(48, (config.num_heads + 2 * config.num_kv_heads) * config.head_dim, device=device).bfloat16()
    query = ops.rope_and_store(qkv, None, None, cache, meta, config)
    meta.plan = ops.plan_attention(meta, config.num_heads, config.num_kv_heads)
    assert distance(ops.attention(query, cache, meta, config)[:40], expected(query, cache, meta, config, 0)) < 1e-2
    ops.copy_blocks(cache, tables[0].long(), torch.tensor([5, 6, 4], device=device))
    for part in cache:
        assert torch.equal(part[5], part[blocks - 1])
        assert torch.equal(part[6], part[blocks // 2])


@pytest.mark.parametrize("shape", [(8, 96)] if INTERPRETED else [(2048, 4096), (256, 576), (16, 8192)], ids=str)
def test_rows_and_products(ops: Ops, device: torch.device, shape: tuple[int, int]) -> None:
    reference, size = load("reference"), shape[1]
    x, residual = (torch.randn(shape, device=device).bfloat16() for _ in range(2))
    weight = torch.randn(size, device=device).bfloat16()
    wanted = reference.add_rms_norm(x.clone(), residual.clone(), weight, 1e-5)
    for mine, its in zip(ops.add_rms_norm(x.clone(), residual.clone(), weight, 1e-5), wanted, strict=True):
        assert distance(values(mine), values(its)) < 1e-2
    pairs = torch.randn(shape[0], 2 * size, device=device).bfloat16()
    for kind in ("silu", "gelu", "gelu_tanh"):
        assert distance(values(ops.gated_activation(pairs, kind)), values(reference.gated_activation(pairs, kind))) < 1e-2
    matrix = torch.randn(80 if INTERPRETED else 1024, size, device=device).bfloat16() * size**-0.5
    product = x.float() @ matrix.float().T
    ops.deterministic = True
    assert distance(values(ops.linear(x, matrix, None)), product) < 1e-2
    assert distance(values(ops.linear_int8(ops.quantize(x), ops.pack_int8(matrix), None, torch.bfloat16)), product) < 3e-2


@pytest.mark.parametrize("shape", [(3, 300)] if INTERPRETED else [(256, 128256), (64, 49152), (1, 151936)], ids=str)
def test_draws(ops: Ops, device: torch.device, shape: tuple[int, int]) -> None:
    """Sums in another order may draw the neighbour of a token: of one row in fifty at most."""
    logits = 4 * torch.randn(shape, device=device).bfloat16()
    tokens, finite = ops.sample(logits, None, None)
    assert bool(finite.all())
    assert torch.equal(logits.gather(1, tokens[:, None])[:, 0], logits.amax(-1))
    rows = torch.arange(len(logits), device=device)
    top = ops.top_logprobs(logits, rows, tokens, 5)
    torch.testing.assert_close(top.values, logits.float().log_softmax(-1).topk(5).values, rtol=1e-4, atol=1e-4)

    def filled(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((len(logits),), value, dtype=dtype, device=device)

    uniform = torch.rand(len(logits), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    for top_k, top_p, min_p in ((0, 0.9, 0.0), (20, 1.0, 0.0), (50, 0.9, 0.05), (0, 1.0, 0.0)):
        settings = SamplingRows(filled(1.0), filled(top_k, torch.int64), filled(top_p), filled(min_p), uniform)
        drawn, wanted = (one.sample(logits, settings, None)[0] for one in (ops, load("reference")))
        assert int((drawn != wanted).sum()) <= len(logits) // 50
