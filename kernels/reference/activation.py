"""Gated activations, in float32.

silu is written out with `exp`: torch's own silu and sigmoid round the left-over elements at the end of a vector loop
differently, so the same value gives other bits in another place.
"""

from __future__ import annotations

import torch
from torch import Tensor


def silu_and_mul(x: Tensor) -> Tensor:
    gate, up = x.float().chunk(2, dim=-1)
    return (gate / (1 + torch.exp(-gate)) * up).to(x.dtype)
