"""LoRA: rows of a linear layer's product get what an adapter's pair of small matrices makes of the rows that the layer read.

Rows of a step may have different adapters, or none. They are not moved: a step says once which rows are whose, and each layer has
weights for each adapter that has some for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class LoRAPart(NamedTuple):
    """The matrix B of some of a layer's output features."""

    b: Tensor
    """[features, rank], the adapter's scale multiplied in."""
    start: int
    """Its first output feature."""
    column: int
    """The first of its `rank` columns of x A^T."""


@dataclass(frozen=True, slots=True)
class AdapterRows:
    """Rows of a step that have an adapter, adapter by adapter. There is one at least."""

    slots: tuple[int, ...]
    """The adapters, by the numbers of their slots, each once."""
    starts: Tensor
    """int64 [G + 1], on the CPU: adapter i of `slots` has rows `order[starts[i] : starts[i + 1]]`."""
    starts_there: Tensor
    """The same where the rows are."""
    order: Tensor
    """int32 [P]"""
    chosen: AdapterRows | None = None
    """The same of the rows that are wanted of the last layer, by their places among these; None: none of them has one."""

    @classmethod
    def of(cls, slots: Tensor, device: torch.device, wanted: Tensor | None = None) -> AdapterRows | None:
        """
        Args:
            slots: int32 [N], on the CPU: each row's slot; 0: it has no adapter.
            wanted: int64 [R], on the CPU: the wanted rows.

        None if no row has one.
        """
        order = slots.argsort(stable=True)
        numbers, counts = slots[order].unique_consecutive(return_counts=True)
        first = int(counts[0]) if len(counts) and not numbers[0] else 0
        if first == len(slots):
            return None
        skip = int(first > 0)
        starts = torch.zeros(len(counts) - skip + 1, dtype=torch.int64)
        torch.cumsum(counts[skip:], 0, out=starts[1:])
        chosen = None if wanted is None else cls.of(slots[wanted], device)
        return cls(tuple(numbers[skip:].tolist()), starts, starts.to(device), order[first:].int().to(device), chosen)

    @classmethod
    def all(cls, slot: int, count: int, device: torch.device, wanted: int | None = None) -> AdapterRows:
        """Of `count` rows with one adapter, of which so many are wanted of the last layer; None: that is not asked."""
        chosen = None if wanted is None else cls.all(slot, wanted, device)
        starts = torch.tensor([0, count])
        return cls((slot,), starts, starts.to(device), torch.arange(count, dtype=torch.int32, device=device), chosen)


class LoRAOps(Protocol):
    """Row-wise, as all operations are: a row's bits do not depend on other rows, nor on their adapters."""

    def pack_lora(self, a: Tensor, parts: Sequence[LoRAPart]) -> Any:
        """The form in which `add_lora` reads a layer's matrices A [columns, in] and those of `parts`, all of the model's dtype. Nothing
        of them is kept. Parts may share columns, and overlap in no feature."""

    def add_lora(self, out: Tensor, x: Tensor, rows: AdapterRows, weights: Sequence[Any], factor: Tensor | None) -> None:
        """Adds ((x A^T) * factor) B^T to rows of out [N, features], in place; sums are made in float32, and x A^T * factor is rounded to
        the dtype of `out`.

        Args:
            x: [N, in] of the dtype of `out`, or uint8 for quantized rows without their scale.
            weights: what `pack_lora` gave for each of `rows.slots`; None: that adapter has none for this layer.
            factor: float32 [N]; None is 1.
        """
