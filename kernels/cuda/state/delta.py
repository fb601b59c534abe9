"""The gated delta rule: one warp keeps some columns of a head's state in registers and goes along the tokens of a sequence."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...state import LENGTH_EPS, DeltaRule, States
from ..configs import cdiv, next_power_of_2
from ..signature import Signature
from .softplus import softplus

#: Columns of a program. They are independent of each other: what they are does not depend on how many there are.
COLUMNS = 8


def gated_delta_rule(qkv: Tensor, gates: Tensor, rule: DeltaRule, state: Tensor, states: States) -> Tensor:
    """See `infer.kernels.state.StateOps.gated_delta_rule`."""
    assert qkv.stride(1) == 1
    assert gates.is_contiguous()
    assert state.is_contiguous()
    assert state.dtype == rule.rate.dtype == rule.bias.dtype == torch.float32
    out = qkv.new_zeros((len(qkv), rule.num_heads * rule.value_dim))
    if len(states.slots):
        delta_kernel[(len(states.slots), rule.num_heads, cdiv(rule.value_dim, COLUMNS))](
            qkv, gates, rule.rate, rule.bias, state, states.query_start, states.kv_lens, states.slots, out, qkv.stride(0),
            rule.key_dim**-0.5, LENGTH_EPS,
            HEADS=rule.num_heads, KEY_HEADS=rule.num_key_heads, KEYS=rule.key_dim, VALUES=rule.value_dim,
            KEY_BLOCK=next_power_of_2(rule.key_dim), COLUMNS=COLUMNS, num_warps=1,
        )  # fmt: skip
    return out


@triton.jit
def delta_kernel(
    qkv, gates, rate, bias, state, query_start, kv_lens, slots, out, stride, scale, eps,
    HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, KEYS: tl.constexpr, VALUES: tl.constexpr, KEY_BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Programs: (sequences, heads, parts of COLUMNS values)."""
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    first, last = tl.load(query_start + sequence), tl.load(query_start + sequence + 1)
    if last > first:
        key_at = tl.arange(0, KEY_BLOCK)
        at = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
        is_key, is_value = key_at < KEYS, at < VALUES
        is_kept = is_key[:, None] & is_value[None, :]
        place = state + (tl.load(slots + sequence).to(tl.int64) * HEADS + head) * (KEYS * VALUES) + key_at[:, None] * VALUES + at[None, :]
        num_values = tl.where(tl.load(kv_lens + sequence) > last - first, VALUES, 0)  # none where these are the first tokens
        kept = tl.load(place, mask=is_key[:, None] & (at < num_values)[None, :], other=0.0)
        head_rate, head_bias = tl.load(rate + head), tl.load(bias + head)
        before = first.to(tl.int64)
        queries = qkv + before * stride + head // (HEADS // KEY_HEADS) * KEYS + key_at
        values = qkv + before * stride + 2 * KEY_HEADS * KEYS + head * VALUES + at
        gate = gates + before * (2 * HEADS) + head
        to = out + before * (HEADS * VALUES) + head * VALUES + at
        for _ in range(first, last):
            query = tl.load(queries, mask=is_key, other=0.0).to(tl.float32)
            key = tl.load(queries + KEY_HEADS * KEYS, mask=is_key, other=0.0).to(tl.float32)
            value = tl.load(values, mask=is_value, other=0.0).to(tl.float32)
            query *= tl.div_rn(scale, tl.sqrt_rn(tl.sum(query * query, 0) + eps))
            key *= tl.div_rn(1.0, tl.sqrt_rn(tl.sum(key * key, 0) + eps))
            beta = 1.0 / (1.0 + tl.exp(-tl.load(gate).to(tl.float32)))
            kept *= tl.exp(head_rate * softplus(tl.load(gate + HEADS).to(tl.float32) + head_bias))
            change = (value - tl.sum(key[:, None] * kept, 0)) * beta
            kept += key[:, None] * change[None, :]
            tl.store(to, tl.sum(query[:, None] * kept, 0).to(out.dtype.element_ty), mask=is_value)
            queries += stride
            values += stride
            gate += 2 * HEADS
            to += HEADS * VALUES
        tl.store(place, kept, mask=is_kept)


def signatures() -> list[Signature]:
    """Of the heads of Qwen3-Next and Qwen3.5, and of small ones."""
    made = []
    for dtype, size in [("bf16", 128), ("fp32", 64)]:
        types = {
            **dict.fromkeys(("qkv", "gates", "out"), f"*{dtype}"),
            **dict.fromkeys(("rate", "bias", "state"), "*fp32"),
            **dict.fromkeys(("query_start", "kv_lens", "slots"), "*i32"),
            **{"stride": "i32:16", "scale": "fp32", "eps": "fp32"},
        }
        shape = {"HEADS": 32, "KEY_HEADS": 16, "KEYS": size, "VALUES": size, "KEY_BLOCK": size, "COLUMNS": COLUMNS}
        made.append(Signature(delta_kernel, f"gated_delta_rule {dtype} {size}", types, shape, num_warps=1))
    return made
