"""One step on one device: a Batch of ints in, logits out. Knows tensors; never sequences or text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from infer.kernels.ops import ROW_MULTIPLE, AttentionMeta, KVCache, Ops

from ..models.language_model import LanguageModel
from .batch import Batch

#: Prompt tokens whose logits are held at a time: [256, vocabulary] and not [prompt, vocabulary].
PIECE = 256

#: Takes (first, logits [at most PIECE, vocabulary]) of a batch's prompt tokens, piece by piece in their order.
TakePiece = Callable[[int, Tensor], None]


class Runner:
    def __init__(self, model: LanguageModel, ops: Ops, caches: list[KVCache], block_size: int, device: torch.device) -> None:
        self.model = model
        self.ops = ops
        self.caches = caches
        self.block_size = block_size
        self.device = device

    @torch.inference_mode()
    def run(self, batch: Batch, take_prompt: TakePiece | None = None) -> Tensor:
        """Logits [R, vocabulary] to draw from, in the model's dtype; keys and values are stored on the way.

        Args:
            take_prompt: is called with the logits of the batch's prompt tokens, if it has any that are wanted.
        """
        if len(batch.copies):
            source, target = self._tensor(batch.copies).unbind(1)
            for cache in self.caches:
                self.ops.copy_blocks(cache, source, target)
        meta = AttentionMeta(
            query_start=self._tensor(batch.query_start),
            kv_lens=self._tensor(batch.kv_lens),
            block_tables=self._tensor(batch.block_tables),
            slots=self._tensor(batch.slots),
            block_size=self.block_size,
        )
        tokens, positions, rows = map(self._tensor, (batch.tokens, batch.positions, batch.logit_rows))
        hidden = self.model.forward(tokens, positions, self.caches, meta, rows)
        if take_prompt is not None:
            self._read_prompt(hidden[batch.prompt_start :], batch.num_prompt_logits, take_prompt)
        if not batch.num_logits:
            return hidden.new_empty(0, self.model.config.vocab_size)
        return self.model.logits(hidden[: batch.prompt_start])[: batch.num_logits]

    def _read_prompt(self, hidden: Tensor, count: int, take: TakePiece) -> None:
        for first in range(0, count, PIECE):
            size = min(PIECE, count - first)
            padded = -(-size // ROW_MULTIPLE) * ROW_MULTIPLE
            take(first, self.model.logits(hidden[first : first + padded])[:size])

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """The array itself on a CPU, a copy elsewhere."""
        return torch.from_numpy(array).to(self.device)
