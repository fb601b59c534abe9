"""The gated delta rule, every head's columns by themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from ...state import DeltaRule, States
from ..library import DTYPES, function

_gated_delta_rule = function("infer_gated_delta_rule", "pipppppppp" + 7 * "i")


def gated_delta_rule(qkv: Tensor, gates: Tensor, rule: DeltaRule, state: Tensor, states: States) -> Tensor:
    assert qkv.stride(1) == 1
    assert qkv.shape[1] == rule.width
    assert gates.is_contiguous()
    assert gates.shape == (len(qkv), 2 * rule.num_heads)
    assert state.is_contiguous()
    assert state.shape[1:] == (rule.num_heads, rule.key_dim, rule.value_dim)
    assert state.dtype == rule.rate.dtype == rule.bias.dtype == torch.float32
    out = qkv.new_zeros((len(qkv), rule.num_heads * rule.value_dim))
    _gated_delta_rule(
        *(qkv, qkv.stride(0), gates, rule.rate, rule.bias, state, states.query_start, states.kv_lens, states.slots, out),
        *(len(states.slots), rule.num_heads, rule.num_key_heads, rule.key_dim, rule.value_dim, DTYPES[qkv.dtype], DTYPES[gates.dtype]),
    )
    return out
