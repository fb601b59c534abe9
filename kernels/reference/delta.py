"""The gated delta rule, sequence by sequence and token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from ..state import LENGTH_EPS, DeltaRule, States
from .state import of_sequences, softplus


def gated_delta_rule(qkv: Tensor, gates: Tensor, rule: DeltaRule, state: Tensor, states: States) -> Tensor:
    keys = rule.num_key_heads * rule.key_dim
    q, k, v = qkv.float().split([keys, keys, rule.num_heads * rule.value_dim], dim=1)
    q = _by_value_head(q, rule) * rule.key_dim**-0.5
    k, v = _by_value_head(k, rule), v.unflatten(1, (rule.num_heads, rule.value_dim))
    b, a = gates.double().chunk(2, dim=1)
    decay = torch.exp(rule.rate.double() * softplus(a + rule.bias)).float()
    beta = (1 / (1 + torch.exp(-b))).float()
    out = torch.zeros_like(v)
    for rows, s in of_sequences(state, states):
        for t in rows:
            s.mul_(decay[t, :, None, None])
            change = beta[t, :, None] * (v[t] - (k[t, :, :, None] * s).sum(1))
            s.add_(k[t, :, :, None] * change[:, None])
            out[t] = (q[t, :, :, None] * s).sum(1)
    return out.flatten(1).to(qkv.dtype)


def _by_value_head(x: Tensor, rule: DeltaRule) -> Tensor:
    """[N, H, key_dim]: the queries or keys [N, key heads * key_dim], of length 1, that each value head has."""
    x = x.unflatten(1, (rule.num_key_heads, rule.key_dim))
    x = x / torch.sqrt(x.square().sum(-1, keepdim=True) + LENGTH_EPS)
    return x.repeat_interleave(rule.num_heads // rule.num_key_heads, dim=1)
