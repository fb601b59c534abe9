"""Positions as sines and cosines of fixed frequencies (arXiv 1706.03762): a table of which nothing is learned."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..weights.parameter import Parameter

#: Frequencies fall from 1 to 1/10000 within the table ("inclusive", fairseq's) or a step short of that ("exclusive", Marian's).
KINDS = ("inclusive", "exclusive")


class Sinusoids:
    """positions int64 [N] -> float32 [N, size]: sines in the first half of features, cosines in the second."""

    def __init__(self, rows: int, size: int, kind: str) -> None:
        assert kind in KINDS, kind
        half = (size + 1) // 2
        if kind == "inclusive":
            step = math.log(10000) / (size // 2 - 1) if size > 3 else 0.0
            angles = torch.arange(rows, dtype=torch.float64)[:, None] * torch.exp(torch.arange(size // 2, dtype=torch.float64) * -step)
        else:
            angles = torch.arange(rows, dtype=torch.float64)[:, None] / 10000 ** (2 * torch.arange(half, dtype=torch.float64) / size)
        table = torch.cat([angles.sin(), angles[:, : size - half].cos() if kind == "exclusive" else angles.cos()], dim=1)
        self.table = F.pad(table, (0, size - table.shape[1])).float()

    def __call__(self, positions: Tensor) -> Tensor:
        if self.table.device != positions.device:
            self.table = self.table.to(positions.device)
        return F.embedding(positions, self.table)

    def parameters(self) -> Iterator[Parameter]:
        """None."""
        yield from ()
