"""Matrix multiplication: torch's own, which hands it to the platform's GEMM library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from . import Ops


def linear(self: Ops, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    chunk = self.row_chunk
    if not chunk or x.shape[0] == chunk:
        return F.linear(x, weight, bias)
    parts = []
    for start in range(0, x.shape[0], chunk):
        part = x[start : start + chunk]
        rows = part.shape[0]
        if rows < chunk:
            part = F.pad(part, (0, 0, 0, chunk - rows))
        parts.append(F.linear(part, weight, bias)[:rows])
    return torch.cat(parts)
