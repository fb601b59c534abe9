"""Matrix multiplication: torch's own, which hands it to the platform's GEMM library."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def pack_weight(weight: Tensor) -> Tensor:
    return weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, row_chunk: int) -> Tensor:
    return in_chunks(x, row_chunk, lambda part: F.linear(part, weight, bias))


def in_chunks(x: Tensor, row_chunk: int, multiply: Callable[[Tensor], Tensor]) -> Tensor:
    """multiply(x [N, in]) of `row_chunk` rows at a time, the last ones zero-padded, or of all at once for 0."""
    if not row_chunk or x.shape[0] == row_chunk:
        return multiply(x)
    parts = []
    for start in range(0, max(x.shape[0], 1), row_chunk):
        part = x[start : start + row_chunk]
        rows = part.shape[0]
        parts.append(multiply(F.pad(part, (0, 0, 0, row_chunk - rows)))[:rows])
    return torch.cat(parts)
