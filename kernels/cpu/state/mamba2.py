"""Mamba-2's scan, every head of every sequence by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ...state import Mamba2Scan, States
from ..library import DTYPES, function

_mamba2_scan = function("infer_mamba2_scan", "pipipppffppppippppiiiii")


def mamba2_scan(xbc: Tensor, dt: Tensor, scan: Mamba2Scan, state: Tensor, states: States) -> Tensor:
    rows, heads, bc = len(xbc), scan.num_heads, 2 * scan.num_groups * scan.state_size
    assert xbc.stride(1) == dt.stride(1) == 1
    assert xbc.shape[1] == scan.width
    assert dt.shape == (rows, heads)
    assert dt.dtype == xbc.dtype
    assert state.is_contiguous()
    assert state.shape[1:] == (heads, scan.state_size, scan.head_dim)
    assert {one.dtype for one in (state, scan.rate, scan.skip, scan.bias)} == {torch.float32}
    out = xbc.new_zeros((rows, heads * scan.head_dim))
    _mamba2_scan(
        *(xbc, xbc.stride(0), dt, dt.stride(0), scan.rate, scan.skip, scan.bias, scan.low, scan.high, state),
        *(states.query_start, states.kv_lens, states.slots, len(states.slots), out),
        *(torch.empty((rows, heads)), torch.empty((rows, heads)), torch.empty((rows, bc))),
        *(heads, scan.num_groups, scan.head_dim, scan.state_size, DTYPES[xbc.dtype]),
    )
    return out
