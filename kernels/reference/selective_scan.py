"""Mamba's selective scan, sequence by sequence and token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from ..state import SelectiveScan, States
from .state import of_sequences, silu, softplus


def selective_scan(x: Tensor, dt: Tensor, bc: Tensor, gate: Tensor, scan: SelectiveScan, state: Tensor, states: States) -> Tensor:
    x32, (b, c) = x.float(), bc.float().chunk(2, dim=1)
    step = softplus(dt.double() + scan.bias)
    added, factor = step.float() * x32, silu(gate)
    out = torch.zeros_like(x32)
    for rows, h in of_sequences(state, states):
        for t in rows:
            h.mul_(torch.exp(step[t] * scan.rate).float()).add_(b[t, :, None] * added[t])
            out[t] = ((h * c[t, :, None]).sum(0) + scan.skip * x32[t]) * factor[t]
    return out.to(x.dtype)
