"""Rotary position embedding, halves paired (NeoX order)."""

from __future__ import annotations

import torch
from torch import Tensor


def rope(x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    c = cos[positions].unsqueeze(1)
    s = sin[positions].unsqueeze(1)
    x32 = x.float()
    first, second = x32[..., :half], x32[..., half : 2 * half]
    return torch.cat([first * c - second * s, second * c + first * s, x32[..., 2 * half :]], dim=-1).to(x.dtype)
