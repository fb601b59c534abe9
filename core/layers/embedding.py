"""Token embedding and its use as output head."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from infer.kernels.ops import Ops

from ..weights.parameter import Parameter


class Embedding:
    """tokens int64 [N] -> [N, size]."""

    def __init__(self, ops: Ops, name: str, vocab_size: int, size: int) -> None:
        self.ops = ops
        self.weight = Parameter((f"{name}.weight", (vocab_size, size)))

    def __call__(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight.tensor)

    def project(self, hidden: Tensor) -> Tensor:
        """hidden [R, size] -> logits [R, vocab_size]: the tied output head."""
        return self.ops.linear(hidden, self.weight.tensor, None)

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight
