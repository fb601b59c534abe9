"""Mamba-2's scan, sequence by sequence and token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from ..state import Mamba2Scan, States
from .state import of_sequences, softplus


def mamba2_scan(xbc: Tensor, dt: Tensor, scan: Mamba2Scan, state: Tensor, states: States) -> Tensor:
    heads, features, groups = scan.num_heads, scan.num_heads * scan.head_dim, scan.num_groups * scan.state_size
    x, b, c = xbc.float().split([features, groups, groups], dim=1)
    x = x.unflatten(1, (heads, scan.head_dim))
    b, c = (one.unflatten(1, (scan.num_groups, -1)).repeat_interleave(heads // scan.num_groups, dim=1) for one in (b, c))
    step = softplus(dt.double() + scan.bias).clamp(scan.low, scan.high)
    decay = torch.exp(step * scan.rate).float()[:, :, None, None]
    added = step.float()[:, :, None] * x
    out = torch.zeros_like(x)
    for rows, h in of_sequences(state, states):
        for t in rows:
            h.mul_(decay[t]).add_(b[t, :, :, None] * added[t, :, None])
            out[t] = (h * c[t, :, :, None]).sum(1) + scan.skip[:, None] * x[t]
    return out.flatten(1).to(xbc.dtype)
