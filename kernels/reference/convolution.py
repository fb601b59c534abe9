"""Short causal convolution over states: every row takes its window from the rows before it and, where these end, from the state."""

from __future__ import annotations

import torch
from torch import Tensor

from ..state import States
from .activation import ACTIVATIONS


def short_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, states: States, activation: str | None) -> Tensor:
    width, starts, slots = len(weight), states.query_start.long(), states.slots.long()
    counts = starts.diff()
    begins = states.kv_lens <= counts
    # Zeros, or what was kept, of each sequence: the inputs at places -(width - 1) to -1.
    before = torch.where(begins[:, None, None], 0, state[slots]).float()
    owner = torch.repeat_interleave(torch.arange(len(counts), device=x.device), counts)
    row = torch.arange(len(owner), device=x.device)
    place = row - starts[owner]
    rows = x[: len(owner)].float()
    total = torch.zeros_like(rows) if bias is None else bias.float().expand_as(rows).clone()
    for tap in range(width):
        back = width - 1 - tap
        total += weight[tap].float() * _inputs(rows, before, owner, row - back, place - back)
    out = torch.zeros_like(x, memory_format=torch.contiguous_format)
    out[: len(owner)] = (total if activation is None else ACTIVATIONS[activation](total)).to(x.dtype)
    having = torch.arange(len(counts), device=x.device)[counts > 0]
    after = []
    for back in range(width - 1, 0, -1):
        after.append(_inputs(rows, before, having, starts[having + 1] - back, counts[having] - back))
    if after:
        state[slots[having]] = torch.stack(after, 1).to(state.dtype)
    return out


def _inputs(rows: Tensor, before: Tensor, owner: Tensor, row: Tensor, place: Tensor) -> Tensor:
    """float32 [A, C]: of sequences `owner` the inputs at `place` among this step's, which are rows `row`; below 0 of `before`."""
    kept = before[owner, (place + before.shape[1]).clamp(0, before.shape[1] - 1)] if before.shape[1] else rows[row.clamp(min=0)]
    return torch.where((place >= 0)[:, None], rows[row.clamp(min=0)], kept)
