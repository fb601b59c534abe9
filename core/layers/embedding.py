"""Token embedding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.kernels.lora import AdapterRows, LoRAPart
from infer.kernels.ops import Ops

from ..parallel.group import current
from ..weights.parameter import Parameter
from .linear import shared_out


class GivenEmbeds(NamedTuple):
    """Embeddings that take the place of looked up ones."""

    rows: Tensor
    """int64 [V] of the tokens."""
    values: Tensor
    """float32 [V, features]; behind them what is added after each of the first layers, as wide each, if there is such."""

    def put(self, words: Tensor) -> Tensor:
        """Writes them into the embeddings [N, features] of a step."""
        return words.index_copy_(0, self.rows, self.values[:, : words.shape[1]].to(words.dtype))

    def add_after(self, layer: int, hidden: Tensor) -> Tensor:
        """Adds what there is for hidden states [N, features] after a layer (deepstack, arXiv 2406.04334)."""
        size = hidden.shape[1]
        first = (layer + 1) * size
        if first < self.values.shape[1]:
            hidden.index_add_(0, self.rows, self.values[:, first : first + size].to(hidden.dtype))
        return hidden


class Embedding:
    """tokens int64 [N] -> [N, size]. Ranks share the vocabulary: each gives zeros for the tokens of others, and the sum is the row."""

    def __init__(self, name: str, vocab_size: int, size: int) -> None:
        self.group = current()
        cuts = shared_out(vocab_size)
        self.cut = None if cuts is None else cuts[0]
        self.pairs: dict[int, tuple[Ops, Tensor, Any]] = {}
        """Of adapters by slot: A^T [vocabulary, rank], and B packed."""
        self.weight = Parameter((f"{name}.weight", (vocab_size, size)), cuts=cuts)

    def __call__(self, tokens: Tensor, adapters: AdapterRows | None = None) -> Tensor:
        """`adapters`: the tokens that have one."""
        found = self._found(tokens)
        if adapters is not None and self.pairs:
            self._adapt(found, tokens, adapters)
        return found

    def _found(self, tokens: Tensor) -> Tensor:
        if self.cut is None:
            return F.embedding(tokens, self.weight.tensor)
        ours = (tokens >= self.cut.start) & (tokens < self.cut.stop)
        found = F.embedding((tokens - self.cut.start).where(ours, 0), self.weight.tensor)
        return self.group.all_reduce(found.masked_fill_(~ours[:, None], 0.0))

    def _adapt(self, found: Tensor, tokens: Tensor, adapters: AdapterRows) -> None:
        starts = adapters.starts.tolist()
        for number, slot in enumerate(adapters.slots):
            if slot in self.pairs:
                ops, table, packed = self.pairs[slot]
                first, last = starts[number : number + 2]
                own_starts = torch.tensor([0, last - first])
                own = AdapterRows((slot,), own_starts, own_starts.to(tokens.device), adapters.order[first:last])
                ops.add_lora(found, F.embedding(tokens, table), own, [packed], None)

    @property
    def table(self) -> Tensor:
        """[vocabulary, size], or this rank's part of it."""
        return self.weight.tensor

    def take_pair(self, slot: int, ops: Ops, a: Tensor, b: Tensor) -> None:
        """The matrices A [rank, vocabulary] and B [size, rank] of an adapter; every rank has all of both."""
        same = torch.eye(len(a), dtype=a.dtype, device=a.device)  # rows are what A gives already
        self.pairs[slot] = ops, a.t().contiguous(), ops.pack_lora(same, [LoRAPart(b, 0, 0)])

    def parameters(self) -> Iterator[Parameter]:
        yield self.weight
