"""The sequences of a step and their states, and formulas of what changes these.

In float64 and then rounded, where torch rounds differently at the end of a vector loop.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..state import States


def of_sequences(state: Tensor, states: States) -> Iterator[tuple[range, Tensor]]:
    """The rows of each sequence that has any, and its state, which is written to; zeros where these are its first tokens."""
    starts = states.query_start.tolist()
    for first, last, length, slot in zip(starts, starts[1:], states.kv_lens.tolist(), states.slots.tolist(), strict=False):
        if last > first:
            if length <= last - first:
                state[slot] = 0
            yield range(first, last), state[slot]


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) of float64."""
    return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)


def silu(x: Tensor) -> Tensor:
    """float32 x / (1 + e^-x)"""
    x = x.double()
    return (x / (1 + torch.exp(-x))).float()
