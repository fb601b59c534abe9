"""Token embedding."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from ..weights.parameter import Parameter


class Embedding:
    """tokens int64 [N] -> [N, size]."""

    def __init__(self, name: str, vocab_size: int, size: int) -> None:
        self.weight = Parameter((f"{name}.weight", (vocab_size, size)))

    def __call__(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight.tensor)

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight
