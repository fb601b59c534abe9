"""The runner: computes one step on one device, a Batch of ints in, logits out.

Knows tensors, never sequences or text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infer.kernels.lora import AdapterRows
from infer.kernels.ops import ROW_MULTIPLE, AttentionMeta, KVCache, Ops, Prefixes, Prompts

from ..adapters.installed import Installed
from ..adapters.weights import AdapterWeights
from ..layers.embedding import GivenEmbeds
from ..memory.prefixes import prefix_groups
from ..memory.swapper import Swapper
from ..models.any_rows import takes_any_rows
from ..models.decoder import Decoder
from ..models.language_model import LanguageModel
from ..sampling.transfers import on, to_device
from .batch import Batch, MediaEncoder, prompts_of
from .graphs import StepGraphs

#: Prompt tokens whose logits are held at a time: [256, vocabulary] and not [prompt, vocabulary].
PIECE = 256

#: Takes (first, logits [at most PIECE, vocabulary]) of a batch's prompt tokens, piece by piece in their order.
TakePiece = Callable[[int, Tensor], None]


class Runner:
    """
    Args:
        caches: one for each layer that attends.
        pools: one for each layer that keeps states, of as many slots each.
    """

    def __init__(
        self,
        model: LanguageModel,
        ops: Ops,
        caches: list[KVCache],
        block_size: int,
        device: torch.device,
        pools: Sequence[Sequence[Tensor]] = (),
    ) -> None:
        self.model = model
        self.ops = ops
        self.caches = caches
        self.pools = pools
        self.block_size = block_size
        self.device = device
        self.any_rows = device.type == "cpu" and takes_any_rows(model)
        """Steps go by the model without padding: of one sequence, one row and not sixteen."""
        self.swapper: Swapper | None = None
        """Blocks in CPU memory, if there are any."""
        self.graphs: StepGraphs | None = None
        """Recorded steps, where there are any."""
        self.adapters: Installed | None = None
        """Those of LoRA, where records may have some."""
        self.encoder: MediaEncoder | None = None
        """Of media in prompts, of a model that takes some."""
        self.drawn: Tensor | None = None
        """int64 [R], on the device: what the step before drew, where a batch may ask for it. See `Batch.tokens`."""

    def load_adapter(self, slot: int, adapter: AdapterWeights) -> None:
        """Takes a LoRA adapter into a slot, for batches from now on. Raises AdapterError where it does not fit."""
        assert self.adapters is not None
        self.adapters.put(slot, adapter)

    @property
    def num_states(self) -> int:
        """Sequences that the pools have room for; 0: the model keeps no states."""
        return len(self.pools[0][0]) - 1 if self.pools else 0

    @property
    def num_stages(self) -> int:
        """Batches that may be on their way through the model at a time, which `begin` was called with."""
        return 1

    def begin(self, batch: Batch) -> None:
        """Says that a batch will be run, after all that this was said of before. Only where there are several stages."""

    @property
    def can_be_shared(self) -> bool:
        """True if threads may run batches at a time: on a CPU, with a model in our code, which keeps nothing of a batch."""
        return self.device.type == "cpu" and isinstance(self.model, Decoder)

    def check(self) -> None:
        """There are no other processes to be lost."""

    def close(self) -> None:
        """There are no other processes to end."""

    def at_work(self) -> AbstractContextManager[None]:
        """Around a step: whatever is computed on the device or waited for."""
        return on(self.device)

    @torch.inference_mode()
    def run(self, batch: Batch, take_prompt: TakePiece | None = None) -> Tensor:
        """Logits [R, vocabulary] to draw from, in the model's dtype; keys and values are stored on the way.

        Args:
            take_prompt: is called with the logits of the batch's prompt tokens, if it has any that are wanted.
        """
        batch, hidden = self.compute(batch)
        if take_prompt is not None:
            self._read_prompt(hidden, batch, take_prompt)
        if not batch.num_logits:
            return hidden.new_empty(0, self.model.vocab_size)
        return self._logits(hidden, batch, 0, batch.prompt_start)[: batch.num_logits]

    def compute(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The batch as it is computed, and hidden states of its `logit_rows`."""
        if self.any_rows and not batch.num_prompt_logits:
            batch = batch.unpadded()
        batch = self.move(batch)
        size = None if self.graphs is None else self.graphs.size_of(batch)
        if self.graphs is None or size is None:
            return batch, self._forward(batch)
        return batch, self.graphs.run(batch, size, self._complete)

    @torch.inference_mode()
    def move(self, batch: Batch) -> Batch:
        """Makes the copies of blocks and states that a batch begins with; returns what is left of it."""
        if self.swapper is not None:
            self.swapper.move(batch.swap_out, batch.swap_in)
        if len(batch.copies):
            source, target = self._tensor(batch.copies).unbind(1)
            for cache in self.caches:
                self.ops.copy_blocks(cache, source, target)
        if len(batch.state_copies):
            source, target = self._tensor(batch.state_copies).unbind(1)
            for pool in chain.from_iterable(self.pools):
                pool.index_copy_(0, target, pool.index_select(0, source))
        return batch.moved()

    def _forward(self, batch: Batch) -> Tensor:
        """Hidden states of the batch's `logit_rows`."""
        meta = AttentionMeta(
            query_start=self._tensor(batch.query_start),
            kv_lens=self._tensor(batch.kv_lens),
            block_tables=self._tensor(batch.block_tables),
            slots=self._tensor(batch.slots),
            block_size=self.block_size,
            state_slots=self._tensor(batch.state_slots) if self.pools else None,
            encoder_lens=self._tensor(batch.encoder_lens) if len(batch.encoder_lens) else None,
            prompts=None if self.device.type == "cpu" else self._prompts(batch),
            adapters=AdapterRows.of(_of_rows(batch), self.device, torch.from_numpy(batch.logit_rows)) if len(batch.adapters) else None,
            spans=self._tensor(batch.spans) if len(batch.spans) else None,
            prefixes=None if self.device.type == "cpu" else self._prefixes(batch),
        )
        tokens, positions, rows = map(self._tensor, (batch.tokens, batch.positions, batch.logit_rows))
        given = None
        if len(batch.virtual_rows):
            given = GivenEmbeds(self._tensor(batch.virtual_rows), self._tensor(batch.embeds))
        if len(batch.grid):
            positions = self._tensor(batch.grid)
        return self.through(self._complete(tokens), positions, meta, rows, given)

    def through(self, tokens: Tensor, positions: Tensor, meta: AttentionMeta, rows: Tensor, given: GivenEmbeds | None) -> Tensor:
        """Hidden states of `rows`."""
        return self.model.forward(tokens, positions, self.caches, meta, rows, self.pools, given)

    def _prefixes(self, batch: Batch) -> Prefixes | None:
        """Of steps that are not recorded. Not where each row's bits are promised: see `attend_prefixes` in kernels/cuda/attend.py. CPU
        kernels look for themselves."""
        if self.ops.deterministic:
            return None
        found = prefix_groups(batch.block_tables, batch.kv_lens, batch.query_start, self.block_size)
        return None if found is None else Prefixes(*map(self._tensor, found))

    def _prompts(self, batch: Batch) -> Prompts:
        sequences, starts = prompts_of(batch.query_start)
        return Prompts(self._tensor(sequences), self._tensor(starts), int(starts[-1]))

    def _read_prompt(self, hidden: Tensor, batch: Batch, take: TakePiece) -> None:
        for first in range(0, batch.num_prompt_logits, PIECE):
            size, start = min(PIECE, batch.num_prompt_logits - first), batch.prompt_start + first
            padded = -(-size // ROW_MULTIPLE) * ROW_MULTIPLE
            take(first, self._logits(hidden, batch, start, start + padded)[:size])

    def _logits(self, hidden: Tensor, batch: Batch, start: int, stop: int) -> Tensor:
        """Of some of the batch's `logit_rows`."""
        adapters = None
        if len(batch.adapters) and self.model.head.pairs:
            adapters = AdapterRows.of(_of_rows(batch)[torch.from_numpy(batch.logit_rows[start:stop])], self.device)
        return self.model.logits(hidden[start:stop], adapters)

    def _complete(self, tokens: Tensor) -> Tensor:
        """A batch's token ids with those of the step before filled in. One that could not be drawn (-1) becomes token 0: its sequence
        fails."""
        if self.drawn is None or not len(self.drawn):
            return tokens
        return self.ops.complete_tokens(tokens, self.drawn)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """The array itself on a CPU, a copy elsewhere."""
        return to_device(torch.from_numpy(array), self.device)


def _of_rows(batch: Batch) -> Tensor:
    """int32 [N]: the slot of each token row's adapter."""
    slots = np.zeros(len(batch.tokens), dtype=np.int32)
    slots[: batch.query_start[-1]] = np.repeat(batch.adapters, np.diff(batch.query_start))
    return torch.from_numpy(slots)
