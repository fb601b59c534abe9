"""Static inputs of a recorded step: memory that stays where it is, and that every step of decodes is written to.

A step of n sequences is padded to one of `size`: the sequences from n on have no context, and what they store goes nowhere. All of it
is one piece of memory, filled on the host and copied at once.

tokens      [ t t t | 0 ... ]   rows: size, padded to a multiple of ROW_MULTIPLE
slots       [ s s s | spare ]   size
kv_lens     [ 9 4 7 | 0     ]   size
state_slots [ 2 1 3 | 0     ]   size
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from infer.kernels.ops import NULL_BLOCK, AttentionMeta
from infer.kernels.state import NULL_STATE

from .batch import Batch, padded_rows

#: Each input begins at a multiple of so many bytes, which kernels are compiled for.
ALIGNMENT = 256


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Views of one piece of memory."""

    tokens: Tensor
    """int64 [N]"""
    positions: Tensor
    """int64 [N]"""
    slots: Tensor
    """int64 [S]"""
    kv_lens: Tensor
    """int32 [S]"""
    state_slots: Tensor
    """int32 [S]"""
    block_tables: Tensor
    """int32 [S, blocks]: the last, so that a step of few sequences ends where its tables do."""


class StaticInputs:
    """
    Args:
        most: most sequences of a step.
        max_context: most tokens of a sequence.
        spare_slot: where sequences that are none store their keys and values; what is there is nobody's. -1 is nowhere, where kernels
            know that.
    """

    def __init__(self, most: int, max_context: int, block_size: int, device: torch.device, *, spare_slot: int) -> None:
        self.most = most
        self.max_context = max_context
        self._block_size = block_size
        self._spare_slot = spare_slot
        self._device = device
        rows, width = padded_rows(most), -(-max_context // block_size)
        self._shapes = (
            (torch.int64, (rows,)),
            (torch.int64, (rows,)),
            (torch.int64, (most,)),
            (torch.int32, (most,)),
            (torch.int32, (most,)),
            (torch.int32, (most, width)),
        )
        self._starts = [0]
        for dtype, shape in self._shapes:
            self._starts.append(self._starts[-1] + -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT)
        self._memory = torch.zeros(self._starts[-1], dtype=torch.uint8, device=device)
        self._inputs = self._views(self._memory)
        self._inputs.slots.fill_(spare_slot)
        self._query_start = torch.arange(most + 1, dtype=torch.int32, device=device)

    def tokens(self, size: int) -> Tensor:
        """int64 [N] of a step of `size` sequences."""
        return self._inputs.tokens[: padded_rows(size)]

    def positions(self, size: int) -> Tensor:
        """int64 [N]"""
        return self._inputs.positions[: padded_rows(size)]

    def meta(self, size: int) -> AttentionMeta:
        """The places of the step's tokens in their sequences and in the cache."""
        i = self._inputs
        where = (self._query_start[: size + 1], i.kv_lens[:size], i.block_tables[:size], i.slots[:size])
        return AttentionMeta(*where, self._block_size, state_slots=i.state_slots[:size])

    def fill(self, batch: Batch, size: int) -> None:
        """Writes a batch of decodes, padded to `size` sequences. On a GPU the copy is there before what is computed after this call."""
        count, (_, blocks) = len(batch.kv_lens), batch.block_tables.shape
        rows, tables = padded_rows(size), self._starts[5]
        end = tables + size * self._inputs.block_tables[0].nbytes
        # The allocator of pinned memory does not hand it out again before the copy is done.
        host = torch.empty(self._starts[-1], dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        h = self._views(host)
        for target, source, filler, length in (
            (h.tokens, batch.tokens, 0, rows),
            (h.positions, batch.positions, 0, rows),
            (h.slots, batch.slots, self._spare_slot, size),
            (h.kv_lens, batch.kv_lens, 0, size),
            (h.state_slots, batch.state_slots, NULL_STATE, size),
        ):
            array = target.numpy()
            array[:count] = source[:count]
            array[count:length] = filler
        table = h.block_tables.numpy()
        # Blocks behind a sequence's end may be in the batch's tables and not have a place in ours.
        blocks = min(blocks, table.shape[1])
        table[:count, :blocks] = batch.block_tables[:, :blocks]
        table[:count, blocks:] = NULL_BLOCK
        table[count:size] = NULL_BLOCK
        self._memory[:end].copy_(host[:end], non_blocking=True)

    def _views(self, memory: Tensor) -> _Inputs:
        return _Inputs(
            *(
                memory[start : start + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
                for start, (dtype, shape) in zip(self._starts, self._shapes, strict=False)
            )
        )
