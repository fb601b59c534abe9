"""Static inputs of a recorded step: memory that stays where it is, and that every such step is written to.

A step is padded to a size that was recorded. All of it is one piece of memory, filled on the host and copied at once: on a GPU from one of
a few pieces of pinned memory, in turns.

tokens      [ t t t t t | 0 ... ]   rows
slots       [ s s s s s | spare ]   tokens
logit_rows  [ 3 4       | 0 ... ]   rows
query_start [ 0 1 4 5   | all   ]   sequences + 1
prompts     [ 1         | 0     ]   prompts
starts      [ 0 3       | 3     ]   prompts + 1
kv_lens     [ 9 4 7     | 0     ]   sequences
state_slots [ 2 1 3     | 0     ]   sequences
members     [ 0 2       | 0     ]   sequences
groups      [ 0 2       | 2     ]   groups + 1
lengths     [ 4         | 0     ]   groups
shared      [ 4 0 4     | 0     ]   sequences

In a step of decodes, each sequence that stands for nobody has one token, as all others have. In any other the first of them has all
tokens that are too many, and those behind it have none. They have no context, so nothing is read for them, and what they store goes
nowhere. The last four are of prefixes that decodes share, in steps that are recorded with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infer.kernels.ops import NULL_BLOCK, AttentionMeta, Prefixes, Prompts
from infer.kernels.state import NULL_STATE

from ..memory.prefixes import PrefixGroups
from .batch import Batch, padded_rows, prompts_of

#: Most sequences of a recorded step that have more than one token.
MOST_PROMPTS = 128
#: Groups of decodes with a common prefix that a recorded step has, if it has any: for each there are programs, if only to see that it is
#: empty. Next to those for the members they are few.
MOST_GROUPS = 32
#: Pieces of memory on the host, so that one can be filled while the device copies another.
TURNS = 3
#: Each input begins at a multiple of so many bytes, which kernels are compiled for.
ALIGNMENT = 256
_NUMPY = {torch.int64: np.int64, torch.int32: np.int32}
_NONE = np.zeros(0, dtype=np.int32)
_NO_PREFIXES = PrefixGroups(_NONE, np.zeros(1, dtype=np.int32), _NONE, _NONE)


class StepSize(NamedTuple):
    """The size of a recorded step: the most tokens and sequences that fit into it."""

    tokens: int
    """New tokens, each with a slot."""
    sequences: int
    groups: int = 0
    """Of decodes with a common prefix; 0: what they have in common is not looked at."""

    @property
    def rows(self) -> int:
        return padded_rows(self.tokens)

    @property
    def prompts(self) -> int:
        """Sequences that may have more than one token; for each there is something to do, if only to see that there is nothing."""
        return 0 if self.decodes_alone else min(self.tokens // 2, self.sequences, MOST_PROMPTS)

    @property
    def decodes_alone(self) -> bool:
        """A token for each sequence."""
        return self.tokens == self.sequences


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Views of one piece of memory."""

    tokens: Tensor
    """int64 [N]"""
    positions: Tensor
    """int64 [N]"""
    slots: Tensor
    """int64 [T]"""
    logit_rows: Tensor
    """int64 [N]"""
    query_start: Tensor
    """int32 [S + 1]"""
    prompts: Tensor
    """int32 [P]"""
    prompt_starts: Tensor
    """int32 [P + 1]"""
    kv_lens: Tensor
    """int32 [S]"""
    state_slots: Tensor
    """int32 [S]"""
    members: Tensor
    """int32 [S]"""
    group_starts: Tensor
    """int32 [G + 1]"""
    lengths: Tensor
    """int32 [G]"""
    shared: Tensor
    """int32 [S]"""
    block_tables: Tensor
    """int32 [S, blocks]: the last, so that a step of few sequences ends where its tables do."""


class StaticInputs:
    """
    Args:
        largest: tokens, sequences and groups of the largest step.
        max_context: most tokens of a sequence.
        spare_slot: where tokens of nobody store their keys and values; what is there is nobody's. -1 is nowhere, where kernels know
            that.
    """

    def __init__(self, largest: StepSize, max_context: int, block_size: int, device: torch.device, *, spare_slot: int) -> None:
        self.largest = largest
        self.max_context = max_context
        self.block_size = block_size
        self._spare_slot = spare_slot
        members = largest.sequences if largest.groups else 0
        self._shapes = (
            (torch.int64, (largest.rows,)),
            (torch.int64, (largest.rows,)),
            (torch.int64, (largest.tokens,)),
            (torch.int64, (largest.rows,)),
            (torch.int32, (largest.sequences + 1,)),
            (torch.int32, (MOST_PROMPTS,)),
            (torch.int32, (MOST_PROMPTS + 1,)),
            (torch.int32, (largest.sequences,)),
            (torch.int32, (largest.sequences,)),
            (torch.int32, (members,)),
            (torch.int32, (largest.groups + 1,)),
            (torch.int32, (largest.groups,)),
            (torch.int32, (members,)),
            (torch.int32, (largest.sequences, -(-max_context // block_size))),
        )
        self._starts = [0]
        for dtype, shape in self._shapes:
            self._starts.append(self._starts[-1] + -(-math.prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT)
        self._memory = torch.zeros(self._starts[-1], dtype=torch.uint8, device=device)
        places = [
            (start, start + math.prod(shape) * dtype.itemsize, _NUMPY[dtype], shape)
            for start, (dtype, shape) in zip(self._starts, self._shapes, strict=False)
        ]
        self._staging = [_Staging(self._memory, places) for _ in range(TURNS)]
        self._turn = 0
        self._inputs = self._views(self._memory)
        self._inputs.slots.fill_(spare_slot)

    def prepare(self, size: StepSize) -> None:
        """Makes the step in memory one of this size that is all nobody's, to be recorded."""
        none = np.zeros(0, dtype=np.int64)
        self._write(size, none, none, none, none, none, none, none, np.zeros((0, 0), dtype=np.int32))

    def tokens(self, size: StepSize) -> Tensor:
        """int64 [N] of a step of this size."""
        return self._inputs.tokens[: size.rows]

    def positions(self, size: StepSize) -> Tensor:
        """int64 [N]"""
        return self._inputs.positions[: size.rows]

    def logit_rows(self, size: StepSize) -> Tensor:
        """int64 [N]: the rows whose hidden states are wanted, the first of them; no step wants more than it has."""
        return self._inputs.logit_rows[: size.rows]

    def meta(self, size: StepSize) -> AttentionMeta:
        """The places of the step's tokens in their sequences and in the cache."""
        i, count = self._inputs, size.sequences
        where = (i.query_start[: count + 1], i.kv_lens[:count], i.block_tables[:count], i.slots[: size.tokens])
        prompts = None if size.decodes_alone else Prompts(i.prompts[: size.prompts], i.prompt_starts[: size.prompts + 1], size.tokens)
        prefixes = None
        if size.groups:
            groups = (i.group_starts[: size.groups + 1], i.lengths[: size.groups])
            prefixes = Prefixes(i.members[:count], *groups, i.shared[:count])
        return AttentionMeta(*where, self.block_size, state_slots=i.state_slots[:count], prompts=prompts, prefixes=prefixes)

    def fill(self, batch: Batch, size: StepSize, prefixes: PrefixGroups | None = None) -> None:
        """Writes a batch, padded to this size. On a GPU the copy is there before what is computed after this call.

        Args:
            prefixes: of a size with groups, and no more than that: what decodes of the batch have in common. None: nothing.
        """
        total = len(batch.slots)
        self._write(
            size,
            batch.tokens[:total],
            batch.positions[:total],
            batch.slots,
            batch.logit_rows,
            batch.query_start[:-1],
            batch.kv_lens,
            batch.state_slots,
            batch.block_tables,
            prefixes,
        )

    def _write(
        self,
        size: StepSize,
        tokens: NDArray[np.int64],
        positions: NDArray[np.int64],
        slots: NDArray[np.int64],
        logit_rows: NDArray[np.int64],
        query_start: NDArray[Any],
        kv_lens: NDArray[Any],
        state_slots: NDArray[Any],
        block_tables: NDArray[np.int32],
        prefixes: PrefixGroups | None = None,
    ) -> None:
        self._turn = (self._turn + 1) % TURNS
        staging = self._staging[self._turn]
        staging.wait()
        all_tokens, places, where, wanted, starts, in_prompts, prompt_starts, lens, states, *of_groups, _ = staging.arrays
        padded = [
            (all_tokens, tokens, 0, size.rows),
            (places, positions, 0, size.rows),
            (where, slots, self._spare_slot, size.tokens),
            (wanted, logit_rows, 0, size.rows),
            (starts, query_start, size.tokens, size.sequences + 1),
            (lens, kv_lens, 0, size.sequences),
            (states, state_slots, NULL_STATE, size.sequences),
        ]
        if size.groups:
            found = _NO_PREFIXES if prefixes is None else prefixes
            members, group_starts, lengths, shared = of_groups
            padded += [
                (members, found.members, 0, size.sequences),
                (group_starts, found.starts, found.starts[-1], size.groups + 1),
                (lengths, found.lengths, 0, size.groups),
                (shared, found.shared, 0, size.sequences),
            ]
        for array, source, filler, length in padded:
            array[: len(source)] = source
            if len(source) < length:
                array[len(source) : length] = filler
        count = len(block_tables)
        if size.decodes_alone:
            if count < size.sequences:
                starts[count : size.sequences] = np.arange(count, size.sequences)
        else:
            starts[count] = len(tokens)
            prompts, within = prompts_of(starts[: size.sequences + 1])
            for array, source in ((in_prompts, prompts), (prompt_starts, within)):
                array[: len(source)] = source
                array[len(source) :] = source[-1] if len(source) else 0
        staging.write_tables(block_tables)
        staging.copy(self._starts[-2] + size.sequences * staging.row_bytes)

    def _views(self, memory: Tensor) -> _Inputs:
        return _Inputs(
            *(
                memory[start : start + math.prod(shape) * dtype.itemsize].view(dtype).view(shape)
                for start, (dtype, shape) in zip(self._starts, self._shapes, strict=False)
            )
        )


class _Staging:
    """A piece of memory on the host that a step is written to and copied from.

    Args:
        target: memory on the device, as large.
        places: (first byte, end, type, shape) of each array; the last is of block tables.
    """

    def __init__(self, target: Tensor, places: Sequence[tuple[int, int, type[Any], tuple[int, ...]]]) -> None:
        on_gpu = target.device.type == "cuda"
        self._memory = torch.zeros(len(target), dtype=torch.uint8, pin_memory=on_gpu)
        self._target = target
        whole = self._memory.numpy()
        self.arrays: list[NDArray[Any]] = [whole[start:stop].view(dtype).reshape(shape) for start, stop, dtype, shape in places]
        self._tables: NDArray[np.int32] = self.arrays[-1]
        self.row_bytes: int = self._tables.strides[0]
        """Of a block table."""
        self._written = 0, 0
        """Block tables and their width, of the step before; all else there is NULL_BLOCK."""
        self._copied = torch.cuda.Event() if on_gpu else None

    def wait(self) -> None:
        """Waits until what was written before is copied."""
        if self._copied is not None:
            self._copied.synchronize()

    def write_tables(self, tables: NDArray[np.int32]) -> None:
        """Block tables [S, blocks] of the first sequences; all else is NULL_BLOCK."""
        # Blocks behind a sequence's end may be in the batch's tables and not have a place in ours.
        count, width = len(tables), min(tables.shape[1], self._tables.shape[1])
        rows, columns = self._written
        self._tables[:count, :width] = tables[:, :width]
        if columns > width:
            self._tables[:count, width:columns] = NULL_BLOCK
        if rows > count:
            self._tables[count:rows, :columns] = NULL_BLOCK
        self._written = count, width

    def copy(self, size: int) -> None:
        """Copies the first `size` bytes to the device; what is computed there after this call sees them."""
        self._target[:size].copy_(self._memory[:size], non_blocking=True)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self._target.device))
