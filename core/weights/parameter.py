"""One tensor of a model and the checkpoint tensors it is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """A checkpoint tensor `name` of `shape` that fills the rows from `start` of a Parameter."""

    name: str
    shape: tuple[int, ...]
    start: int = 0


class Parameter:
    """A weight that is described first and allocated only once the whole checkpoint has been found to fit.

    Fused weights (q, k and v; gate and up) are several parts stacked along the first dimension.
    """

    __slots__ = ("parts", "shape", "tensor")

    def __init__(self, *parts: tuple[str, tuple[int, ...]]) -> None:
        rows = 0
        placed = []
        for name, shape in parts:
            placed.append(Part(name, shape, rows))
            rows += shape[0]
        self.parts = tuple(placed)
        self.shape = (rows, *parts[0][1][1:])
        self.tensor: Tensor = torch.empty(0)

    def allocate(self, dtype: torch.dtype, device: torch.device) -> None:
        self.tensor = torch.empty(self.shape, dtype=dtype, device=device)

    def fill(self, part: Part, value: Tensor) -> None:
        """Copies a checkpoint tensor to its rows, converting its dtype."""
        self.tensor[part.start : part.start + part.shape[0]].copy_(value)
