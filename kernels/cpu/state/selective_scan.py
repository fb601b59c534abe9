"""Mamba's selective scan, every channel of every sequence by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ...state import SelectiveScan, States
from ..library import DTYPES, function

_selective_scan = function("infer_selective_scan", "pipipipipppppppippiii")


def selective_scan(x: Tensor, dt: Tensor, bc: Tensor, gate: Tensor, scan: SelectiveScan, state: Tensor, states: States) -> Tensor:
    (rows, channels), depth = x.shape, len(scan.rate)
    assert {one.stride(1) for one in (x, dt, bc, gate)} == {1}
    assert x.shape == dt.shape == gate.shape
    assert bc.shape == (rows, 2 * depth)
    assert {one.dtype for one in (x, dt, bc, gate)} == {x.dtype}
    assert state.is_contiguous()
    assert state.shape[1:] == scan.rate.shape == (depth, channels)
    assert {one.dtype for one in (state, scan.rate, scan.skip, scan.bias)} == {torch.float32}
    out = x.new_zeros((rows, channels))
    _selective_scan(
        *(x, x.stride(0), dt, dt.stride(0), bc, bc.stride(0), gate, gate.stride(0), scan.rate, scan.skip, scan.bias, state),
        *(states.query_start, states.kv_lens, states.slots, len(states.slots), out, torch.empty((rows, 2 * depth))),
        *(channels, depth, DTYPES[x.dtype]),
    )
    return out
