"""A runner without tensors of a model: its "cache" holds token ids, so that a wrong page shows as a wrong answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

from infer.core.engine.batch import Batch
from infer.core.engine.engine import Engine
from infer.core.engine.runner import TakePiece
from infer.core.engine.stopping import EndTokens
from infer.core.memory.swap import SwapCosts, SwapSpace
from infer.core.settings.args import EngineArgs
from infer.core.spec.read import read_spec
from infer.kernels import load

VOCABULARY = 64
EOS = 1


def next_logits(context: list[int]) -> torch.Tensor:
    """The model's logits after `context`: any function of the whole of it will do."""
    digest = hashlib.blake2b(bytes(str(context), "ascii"), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randn(VOCABULARY, generator=generator) * 2


class PagedMemory:
    """Stores each token where the batch says, and reads contexts back through the block tables.

    With states (`num_states` above 0) a slot holds the tokens that went by, as a recurrent layer would: they must be the context.
    """

    def __init__(self, num_blocks: int, block_size: int, num_states: int = 0) -> None:
        self.num_states, self.any_rows, self.encoder = num_states, True, None
        self.states: dict[int, list[int]] = {}
        self.ops = load("reference")
        self.block_size = block_size
        self.cells = [-1] * ((num_blocks + 1) * block_size)
        self.host_cells: dict[int, list[int]] = {}
        self.num_tokens: list[int] = []
        self.num_prompt_rows = 0
        self.piece = 5
        self.poisoned: Callable[[list[int]], bool] = lambda context: False
        self.drawn: torch.Tensor | None = None
        self.num_handed = 0
        self.written: set[int] = set()
        """Blocks that the last step wrote to."""

    can_be_shared = True
    num_stages = 1

    def close(self) -> None:
        """There is nothing to end."""

    def at_work(self) -> AbstractContextManager[None]:
        return nullcontext()

    def move(self, batch: Batch) -> Batch:
        size = self.block_size
        for source, target in batch.swap_out.tolist():
            self.host_cells[target] = self.cells[source * size : (source + 1) * size]
        for source, target in batch.swap_in.tolist():
            self.cells[target * size : (target + 1) * size] = self.host_cells[source]
        read = {int(s): self.cells[s * size : (s + 1) * size] for s in batch.copies[:, 0]}
        for source, target in batch.copies.tolist():
            self.cells[target * size : (target + 1) * size] = read[source]
        read = {source: self.states.get(source, [-2]) for source, _ in batch.state_copies.tolist()}
        assert len({target for _, target in batch.state_copies.tolist()}) == len(batch.state_copies), "two copies to one slot"
        self.states.update((target, read[source]) for source, target in batch.state_copies.tolist())
        return batch.moved()

    def run(self, batch: Batch, take_prompt: TakePiece | None = None) -> torch.Tensor:
        batch, size = self.move(batch), self.block_size
        total = len(batch.slots)
        self.num_tokens.append(total)
        assert len(set(batch.slots.tolist())) == total, "two tokens were stored in one place"
        assert 0 not in batch.slots // size, "the null block was written"
        self.written = {slot // size for slot in batch.slots.tolist()}
        for token, slot in zip(batch.tokens[:total].tolist(), batch.slots.tolist(), strict=True):
            self.cells[slot] = token
            if token < 0:
                assert self.drawn is not None, "a token is asked for that is not on the device"
                self.cells[slot] = max(int(self.drawn[-1 - token]), 0)
                self.num_handed += 1
        if self.num_states:
            self.pass_by(batch)
        if take_prompt is not None:
            wanted = batch.logit_rows[batch.prompt_start : batch.prompt_start + batch.num_prompt_logits].tolist()
            self.num_prompt_rows += len(wanted)
            for first in range(0, len(wanted), self.piece):
                piece = [self.logits(batch, row) for row in wanted[first : first + self.piece]]
                take_prompt(first, torch.stack(piece))
        drawn = batch.logit_rows[: batch.num_logits].tolist()
        assert len({*drawn}) == len(drawn)
        rows = [self.logits(batch, row, drawn=drawn) for row in drawn]
        return torch.stack(rows) if rows else torch.empty(0, VOCABULARY)

    def pass_by(self, batch: Batch) -> None:
        """Takes the states of the batch's sequences on by their tokens."""
        slots = batch.state_slots.tolist()
        assert len({*slots}) == len(slots) == len(batch.kv_lens), "two sequences have one slot"
        assert all(1 <= slot <= self.num_states for slot in slots)
        starts = batch.query_start.tolist()
        for first, end, length, slot in zip(starts, starts[1:], batch.kv_lens.tolist(), slots, strict=False):
            before = [] if length == end - first else self.states[slot]
            self.states[slot] = before + [self.cells[at] for at in batch.slots[first:end].tolist()]
            assert len(self.states[slot]) == length, "the states are not those of the tokens before"

    def logits(self, batch: Batch, row: int, *, drawn: Collection[int] = ()) -> torch.Tensor:
        """The model's logits at a token row; behind those that are `drawn` from, only others of these may be in a sequence."""
        sequence = int((batch.query_start[1:] <= row).sum())
        length = int(batch.positions[row]) + 1
        assert length <= batch.kv_lens[sequence]
        assert not drawn or all(later in drawn for later in range(row, int(batch.query_start[sequence + 1])))
        table = batch.block_tables[sequence].tolist()
        context = [self.cells[table[i // self.block_size] * self.block_size + i % self.block_size] for i in range(length)]
        assert not self.num_states or context == self.states[int(batch.state_slots[sequence])][:length], "states of another context"
        return torch.full((VOCABULARY,), float("nan")) if self.poisoned(context) else next_logits(context)


@pytest.fixture(scope="session")
def make_engine() -> Callable[..., Engine]:
    """make_engine(num_blocks=..., block_size=..., any other EngineArgs) -> Engine over PagedMemory.

    swap_blocks: blocks in CPU memory for preempted sequences; `preemption_mode` says when they are used.
    num_states: slots for states of a model that keeps some; 0: it keeps none.
    """

    def make(num_blocks: int = 64, block_size: int = 4, tokenizer: Any = None, num_states: int = 0, **kwargs: Any) -> Engine:
        hf = {"model_type": "llama", "max_position_embeddings": kwargs.pop("length", 512)}
        kwargs.setdefault("lanes", 1)
        kwargs.setdefault("speculation", "off")  # steps are counted
        swap = None
        if swap_blocks := kwargs.pop("swap_blocks", 0):
            swap = SwapSpace(swap_blocks, block_size, SwapCosts(1), kwargs.get("preemption_mode"))
        args = EngineArgs.from_kwargs(model="fake", device="cpu", dtype="float32", block_size=block_size, **kwargs)
        config, memory = args.resolve(read_spec(hf)), PagedMemory(num_blocks, block_size, num_states)
        ends = EndTokens(EOS, frozenset({2}))
        return Engine(config, memory, num_blocks, tokenizer, ends, VOCABULARY, num_states=num_states, swap=swap)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def oracle() -> Callable[[list[int]], torch.Tensor]:
    return next_logits
