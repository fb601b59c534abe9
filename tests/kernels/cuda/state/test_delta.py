"""The gated delta rule against the reference; a sequence's bits do not depend on how steps cut it, nor on its company."""

from __future__ import annotations

import pytest
import torch

from infer.kernels import load

from ...test_delta import inputs, rule_of, states_of


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 3, 5, 7), torch.float32), ((4, 2, 16, 24), torch.bfloat16), ((2, 1, 24, 8), torch.float16)], ids=str
)
def test_as_the_reference(device: torch.device, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    rule, where = rule_of(*shape), states_of([9, 0, 1, 3], [0, 3, 5, 4], [2, 4, 5, 1])
    qkv, gates = inputs(rule, 16, dtype, dtype)
    want_state = torch.randn(6, rule.num_heads, rule.key_dim, rule.value_dim, generator=torch.Generator().manual_seed(1))
    want_state[2] = torch.nan
    state = want_state.clone().to(device)
    want = load("reference").gated_delta_rule(qkv, gates, rule, want_state, where)
    there = rule._replace(rate=rule.rate.to(device), bias=rule.bias.to(device))
    got = load("cuda").gated_delta_rule(qkv.to(device), gates.to(device), there, state, type(where)(*(t.to(device) for t in where)))
    tolerance = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    torch.testing.assert_close(got.cpu(), want, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(state.cpu(), want_state, rtol=1e-5, atol=1e-5)


def test_no_cut_changes_a_bit(device: torch.device) -> None:
    ops, rule = load("cuda"), rule_of(4, 2, 16, 24)
    rule = rule._replace(rate=rule.rate.to(device), bias=rule.bias.to(device))
    qkv, gates = (x.to(device) for x in inputs(rule, 16, torch.float32, torch.float32))

    def run(rows: slice, state: torch.Tensor, *where: list[int]) -> torch.Tensor:
        return ops.gated_delta_rule(
            qkv[rows], gates[rows], rule, state, type(states_of(*where))(*(t.to(device) for t in states_of(*where)))
        )

    whole = torch.full((3, 4, 16, 24), torch.nan, device=device)
    out = run(slice(0, 16), whole, [9, 7], [0, 0], [2, 1])
    state = torch.full_like(whole, torch.nan)
    parts = [run(slice(a, b), state, [b - a], [a], [2]) for a, b in ((0, 1), (1, 6), (6, 9))]
    assert torch.equal(torch.cat(parts), out[:9])
    assert torch.equal(state[2], whole[2])
