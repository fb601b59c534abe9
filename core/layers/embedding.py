"""Token embedding."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from ..parallel.group import current
from ..weights.parameter import Parameter
from .linear import shared_out


class Embedding:
    """tokens int64 [N] -> [N, size]. Ranks share the vocabulary: each gives zeros for the tokens of others, and the sum is the row."""

    def __init__(self, name: str, vocab_size: int, size: int) -> None:
        self.group = current()
        cuts = shared_out(vocab_size)
        self.cut = None if cuts is None else cuts[0]
        self.weight = Parameter((f"{name}.weight", (vocab_size, size)), cuts=cuts)

    def __call__(self, tokens: Tensor) -> Tensor:
        if self.cut is None:
            return F.embedding(tokens, self.weight.tensor)
        ours = (tokens >= self.cut.start) & (tokens < self.cut.stop)
        found = F.embedding((tokens - self.cut.start).where(ours, 0), self.weight.tensor)
        return self.group.all_reduce(found.masked_fill_(~ours[:, None], 0.0))

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight
