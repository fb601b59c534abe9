"""The gated delta rule on CPUs: against the paper's recurrence in float64, bit for bit the same however steps cut sequences."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from infer.kernels import load, usable
from infer.kernels.ops import Ops
from infer.kernels.state import LENGTH_EPS, DeltaRule, States

#: (heads, key heads, key size, value size): of no multiple of anything, of one vector, of many.
SHAPES = [(3, 3, 5, 7), (4, 2, 16, 16), (2, 1, 24, 88), (4, 4, 64, 200)]


@pytest.fixture(params=usable("cpu"))
def ops(request: pytest.FixtureRequest) -> Ops:
    return load(request.param)


def rule_of(heads: int, key_heads: int, key_dim: int, value_dim: int) -> DeltaRule:
    g = torch.Generator().manual_seed(heads + value_dim)
    return DeltaRule(heads, key_heads, key_dim, value_dim, -2 * torch.rand(heads, generator=g), torch.randn(heads, generator=g))


def inputs(rule: DeltaRule, rows: int, dtype: torch.dtype, gates: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows within wider ones, and gates of which some are far out."""
    g = torch.Generator().manual_seed(rows)
    wide = torch.randn(rows, rule.width + 3, generator=g).to(dtype)
    far = torch.randn(rows, 2 * rule.num_heads, generator=g) * torch.tensor([1.0, 30.0])[torch.arange(rows) % 7 // 6][:, None]
    return wide[:, : rule.width], far.to(gates)


def states_of(lengths: list[int], before: list[int], slots: list[int]) -> States:
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    kv_lens = torch.tensor([n + m for n, m in zip(lengths, before, strict=True)], dtype=torch.int32)
    return States(starts, kv_lens, torch.tensor(slots, dtype=torch.int32))


def expected(qkv: Tensor, gates: Tensor, rule: DeltaRule, state: Tensor) -> tuple[Tensor, Tensor]:
    """One sequence in float64: S = decay (I - beta k k^T) S + beta k v^T, as the paper has it, of every head."""
    q, k, v = qkv.double().split([rule.num_key_heads * rule.key_dim] * 2 + [rule.num_heads * rule.value_dim], dim=1)
    state, out = state.double(), torch.empty(len(qkv), rule.num_heads, rule.value_dim, dtype=torch.float64)
    for t in range(len(qkv)):
        for h in range(rule.num_heads):
            first = h * rule.num_key_heads // rule.num_heads * rule.key_dim
            part = slice(first, first + rule.key_dim)
            query, key = (x[t, part] / (x[t, part].square().sum() + LENGTH_EPS).sqrt() for x in (q, k))
            beta = torch.sigmoid(gates[t, h].double())
            decay = (rule.rate[h].double() * torch.nn.functional.softplus(gates[t, rule.num_heads + h].double() + rule.bias[h])).exp()
            kept = decay * (torch.eye(rule.key_dim, dtype=torch.float64) - beta * torch.outer(key, key))
            state[h] = kept @ state[h] + beta * torch.outer(key, v[t, h * rule.value_dim : (h + 1) * rule.value_dim])
            out[t, h] = query @ state[h] * rule.key_dim**-0.5
    return out.flatten(1), state


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "gates_dtype"), [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)], ids=str
)
def test_right(ops: Ops, shape: tuple[int, int, int, int], dtype: torch.dtype, gates_dtype: torch.dtype) -> None:
    rule, lengths, before, slots = rule_of(*shape), [9, 0, 1, 17], [0, 3, 5, 4], [2, 4, 5, 1]
    qkv, gates = inputs(rule, 32, dtype, gates_dtype)
    start = torch.randn(6, rule.num_heads, rule.key_dim, rule.value_dim, generator=torch.Generator().manual_seed(1))
    start[2] = torch.nan  # whatever a sequence that begins finds in its slot
    state = start.clone()
    got = ops.gated_delta_rule(qkv, gates, rule, state, states_of(lengths, before, slots))
    assert (got.dtype, got.shape) == (dtype, (32, rule.num_heads * rule.value_dim))
    assert not got[27:].any()
    tolerance = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    first = 0
    for length, earlier, slot in zip(lengths, before, slots, strict=True):
        rows = slice(first, first + length)
        want, end = expected(qkv[rows], gates[rows], rule, start[slot] if earlier else torch.zeros_like(start[slot]))
        torch.testing.assert_close(got[rows].double(), want, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(state[slot].double(), end, rtol=1e-5, atol=1e-5)
        first += length
    for untouched in (0, 3, 4):
        assert torch.equal(state[untouched], start[untouched])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_cut_and_no_company_changes_a_bit(ops: Ops, shape: tuple[int, int, int, int]) -> None:
    rule = rule_of(*shape)
    qkv, gates = inputs(rule, 48, torch.bfloat16, torch.bfloat16)
    whole = torch.full((3, rule.num_heads, rule.key_dim, rule.value_dim), torch.nan)
    out = ops.gated_delta_rule(qkv, gates, rule, whole, states_of([25, 23], [0, 0], [2, 1]))
    for cuts in ([0, 1, 2, 25], [0, 16, 20, 25], [0, 13, 25]):
        state, parts = torch.full_like(whole, torch.nan), []
        for start, stop in pairwise(cuts):
            rows = torch.arange(start, stop)
            padded = torch.cat([rows, rows.new_zeros(-len(rows) % 16)])
            given = states_of([stop - start], [start], [2])
            parts.append(ops.gated_delta_rule(qkv[padded], gates[padded], rule, state, given)[: len(rows)])
        assert torch.equal(torch.cat(parts), out[:25])
        assert torch.equal(state[2], whole[2])
