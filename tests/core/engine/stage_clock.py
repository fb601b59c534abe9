"""A clock for stages of a pipeline that compute nothing: what each batch would take, and how long stages wait for each other."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from infer.core.engine.batch import Batch
from infer.core.engine.engine import Engine
from infer.core.engine.stopping import EndTokens
from infer.core.settings.args import EngineArgs
from infer.core.spec.read import read_spec
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request

#: Tokens of context that attention takes as long to read as the rest of a layer takes for a token.
CONTEXT = 1024
BLOCK_SIZE = 16


class Ops:
    """Draws the same token, which ends nothing, for every row."""

    name = "none"

    def sample(self, logits: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((len(logits),), 7), torch.ones(len(logits), dtype=torch.bool)


class Stages:
    """A runner of so many stages.

    Args:
        least: tokens that take as long as fewer, as all weights are read for one.
    """

    any_rows, encoder, can_be_shared = False, None, False

    def __init__(self, num_stages: int, least: int) -> None:
        self.num_stages = num_stages
        self.least = least
        self.ops = Ops()
        self.begun: list[tuple[float, int]] = []
        """Of each batch the time that all stages together take, and the number of batches that were booked before it began."""
        self.booked = 0

    def at_work(self) -> AbstractContextManager[None]:
        return nullcontext()

    def close(self) -> None:
        """There is nothing to end."""

    def begin(self, batch: Batch) -> None:
        self.begun.append((max(self.least, len(batch.slots)) + int(batch.kv_lens.sum()) / CONTEXT, self.booked))

    def run(self, batch: Batch) -> torch.Tensor:
        if self.num_stages == 1:
            self.begin(batch)
        self.booked += 1
        return torch.empty(batch.num_logits, 1)


class Told(NamedTuple):
    time: float
    busy: float
    """The time that each stage computes."""

    @property
    def bubbles(self) -> float:
        """The share of the time that stages wait."""
        return 1 - self.busy / self.time


def told(stages: Stages) -> Told:
    """Each stage takes an equal part of a batch's time, and batches in the order in which they began."""
    ends = [0.0] * stages.num_stages
    booked = [0.0]
    """When so many batches were booked."""
    for work, before in stages.begun:
        ready = booked[before]
        for stage in range(stages.num_stages):
            ends[stage] = ready = max(ends[stage], ready) + work / stages.num_stages
        booked.append(ready)
    return Told(ends[-1], sum(work for work, _ in stages.begun) / stages.num_stages)


def timed(num_stages: int, num_requests: int, *, least: int, max_num_seqs: int = 256, seed: int = 0) -> Told:
    """Requests of 16 to 600 tokens, with outputs of 16 to 250."""
    stages, dice = Stages(num_stages, least), random.Random(seed)
    hf = {"model_type": "llama", "max_position_embeddings": 1024, "num_hidden_layers": 8}
    settings: dict[str, Any] = {"max_num_seqs": max_num_seqs, "max_num_batched_tokens": 2048, "block_size": BLOCK_SIZE}
    args = EngineArgs.from_kwargs(model="none", device="cpu", dtype="float32", lanes=1, speculation="off", **settings)
    blocks = max_num_seqs * -(-1024 // BLOCK_SIZE)
    engine = Engine(args.resolve(read_spec(hf)), stages, blocks, None, EndTokens(0, frozenset()), 32000)  # type: ignore[arg-type]
    for number in range(num_requests):
        prompt = [3 + number] * min(600, 16 + int(dice.expovariate(1 / 150)))
        length = min(250, 16 + int(dice.expovariate(1 / 90)))
        engine.add(Request(str(number), prompt, SamplingParams(temperature=0, max_tokens=length, ignore_eos=True), number))
    engine.expect_more(False)
    while engine.num_unfinished:
        engine.step()
    engine.scheduler.check_integrity()
    return told(stages)
