"""Matrix multiplication: torch's own, which hands it to the platform's GEMM library."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, row_chunk: int) -> Tensor:
    """`row_chunk` rows at a time, zero-padded, or all at once for 0."""
    if not row_chunk or x.shape[0] == row_chunk:
        return F.linear(x, weight, bias)
    parts = []
    for start in range(0, x.shape[0], row_chunk):
        part = x[start : start + row_chunk]
        rows = part.shape[0]
        parts.append(F.linear(F.pad(part, (0, 0, 0, row_chunk - rows)), weight, bias)[:rows])
    return torch.cat(parts)
