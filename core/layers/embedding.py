"""Token embedding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..parallel.group import current
from ..weights.parameter import Parameter
from .linear import shared_out


class GivenEmbeds(NamedTuple):
    """Embeddings that take the place of looked up ones."""

    rows: Tensor
    """int64 [V] of the tokens."""
    values: Tensor
    """float32 [V, features]"""

    def put(self, words: Tensor) -> Tensor:
        """Writes them into the embeddings [N, features] of a step."""
        return words.index_copy_(0, self.rows, self.values.to(words.dtype))


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
