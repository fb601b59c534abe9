"""One step on one device: a Batch of ints in, logits out. Knows tensors; never sequences or text."""

from __future__ import annotations

import torch
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
        """Logits float32 [R, vocabulary] of the batch's `logit_rows`; keys and values are stored on the way."""
        if len(batch.copies):
            source, target = self._tensor(batch.copies[:, 0].copy()), self._tensor(batch.copies[:, 1].copy())
            for cache in self.caches:
                self.ops.copy_blocks(cache, source, target)
        meta = AttentionMeta(
            query_start=self._tensor(batch.query_start),
            kv_lens=self._tensor(batch.kv_lens),
            block_tables=self._tensor(batch.block_tables),
            slots=self._tensor(batch.slots),
            block_size=self.block_size,
        )
        hidden = self.model.forward(self._tensor(batch.tokens), self._tensor(batch.positions), self.caches, meta)
        if not batch.num_logits:
            return hidden.new_empty(0, self.model.config.vocab_size, dtype=torch.float32)
        return self.model.logits(hidden[self._tensor(batch.logit_rows)])[: batch.num_logits]

    def _tensor(self, array: object) -> Tensor:
        return torch.as_tensor(array, device=self.device)
