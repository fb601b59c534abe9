"""Stages of a pipeline: which ranks hold which layers of a model. No torch.

Ranks are numbered from the end, so that rank 0, which schedules and draws, has the logits: of R ranks a stage, the last stage has ranks 0
to R - 1, the one before it R to 2 R - 1, and so on. Rank i of a stage gives hidden states to rank i of the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate, pairwise

from ..errors import ConfigError
from ..spec.model_spec import ModelSpec
from ..spec.stack import StackSpec

#: The head's part of a step's work, by its size: it sees one row of a prompt, and about half of all tokens are prompts'.
HEAD_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Stage:
    """One of `count` stages: the first has the embedding, the last the final norm and the head."""

    number: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.number == 0

    @property
    def is_last(self) -> bool:
        return self.number == self.count - 1


@dataclass(frozen=True, slots=True)
class Place:
    """The place of rank `number`: its stage, and its own `rank` among the `size` ranks that share that."""

    number: int
    stage: Stage
    rank: int
    size: int

    @classmethod
    def of(cls, rank: int, size: int, count: int) -> Place:
        """Of rank number `rank` of `count` stages of `size` ranks."""
        return cls(rank, Stage(count - 1 - rank // size, count), rank % size, size)


def cuts_of(stack: StackSpec) -> list[int]:
    """The layers that a stage may begin with, but for the first: none from there on reads what an earlier one keeps."""
    reads = [layer.attention.reads if layer.attention is not None else None for layer in stack.layers]
    return [at for at in range(1, len(reads)) if all(one is None or one >= at for one in reads[at:])]


def layers_of(stage: Stage, stack: StackSpec, sizes: Sequence[int], head: int) -> range:
    """The layers of a stage: such that the largest stage is as small as can be.

    Args:
        sizes: elements of each layer's weights.
        head: those of the head.
    """
    if stage.count == 1:
        return range(len(sizes))
    total = list(accumulate(sizes, initial=0))
    ends = [0, *cuts_of(stack), len(sizes)]
    extra = int(head * HEAD_SHARE)
    # best[i]: (the largest stage, where the stages end) of the layers before ends[i] in so many stages.
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, (0,))}
    for number in range(stage.count):
        weight = extra if number == stage.count - 1 else 0
        after: dict[int, tuple[int, tuple[int, ...]]] = {}
        for i, (largest, cuts) in best.items():
            for j in range(i + 1, len(ends)):
                found = (max(largest, total[ends[j]] - total[ends[i]] + weight), (*cuts, ends[j]))
                after[j] = min(after.get(j, found), found)
        best = after
    assert len(ends) - 1 in best, "`check_stages` refuses more stages than layers"
    first, stop = list(pairwise(best[len(ends) - 1][1]))[stage.number]
    return range(first, stop)


def check_stages(spec: ModelSpec, count: int, *, ours: bool) -> None:
    """Raises ConfigError, naming the most that work, if a model cannot be cut into so many stages.

    Args:
        ours: whether it runs in our code.
    """
    if count == 1:
        return
    name = f"pipeline_parallel_size={count}: {spec.model_type} models"
    if spec.has_encoder:
        raise ConfigError(f"{name} have an encoder and a decoder, which are not cut into stages; leave it at 1")
    if not ours or spec.stack is None:
        raise ConfigError(f"{name} run through transformers' code, which is not cut into stages; leave it at 1")
    if spec.stack.per_layer is not None:
        raise ConfigError(f"{name} look tokens up in every layer, so they are not cut into stages; leave it at 1")
    most = len(cuts_of(spec.stack)) + 1
    if count > most:
        layers = len(spec.stack.layers)
        why = f"the model has {layers} layers"
        if most < layers:
            why += f", and those that read what others keep stay with them: it can be cut into {most} stages"
        raise ConfigError(f"pipeline_parallel_size={count}: {why}; lower it to {most}")


WHOLE = Stage()
_current: ContextVar[Stage] = ContextVar("stage", default=WHOLE)


def current_stage() -> Stage:
    """The stage that models built now are."""
    return _current.get()


@contextmanager
def as_stage(stage: Stage) -> Iterator[None]:
    """Models built inside are this stage."""
    token = _current.set(stage)
    try:
        yield
    finally:
        _current.reset(token)
