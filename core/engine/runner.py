"""One step on one device: a Batch of ints in, logits out. Knows tensors; never sequences or text."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from infer.kernels.ops import AttentionMeta, KVCache, Ops

from ..models.decoder import Decoder
from .batch import Batch


class Runner:
    def __init__(self, model: Decoder, ops: Ops, caches: list[KVCache], block_size: int, device: torch.device) -> None:
        self.model = model
        self.ops = ops
        self.caches = caches
        self.block_size = block_size
        self.device = device

    @torch.inference_mode()
    def run(self, batch: Batch) -> Tensor:
        """Logits [R, vocabulary] of the batch's `logit_rows`, in the model's dtype; keys and values are stored on the way."""
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
        if not batch.num_logits:
            return hidden.new_empty(0, self.model.config.vocab_size)
        return self.model.logits(hidden)[: batch.num_logits]

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """The array itself on a CPU, a copy elsewhere."""
        return torch.from_numpy(array).to(self.device)
