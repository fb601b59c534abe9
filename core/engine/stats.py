"""Statistics of an engine: counts and times of its steps."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..types.request import Sequence

if TYPE_CHECKING:
    from .overlap import Step
    from .scheduler import Scheduler

#: The parts of a step, in order.
PARTS = ("schedule", "batch", "model", "sample", "commit", "detokenize")


@dataclass(slots=True)
class EngineStats:
    """Totals since the engine was made. Prompt tokens count once their request has its first output token.

    Where texts are pooled they count once their text is computed, the same text that waited several times as often; all but one of these
    are cached. The first token is then the first vector, and of the seconds `sample` is pooling and all that comes after it.
    """

    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    """Prompt tokens not computed because the prefix cache had them."""
    num_computed_tokens: int = 0
    """Tokens that went through the model, those that were computed again after a preemption counted again; where texts are pooled
    all that were not cached."""
    num_drafts: int = 0
    """Tokens that were computed because they might come next, beside `num_computed_tokens`."""
    num_accepted: int = 0
    """Those that came."""
    num_media: int = 0
    """Times that the tower of images ran."""
    num_steps: int = 0
    num_preemptions: int = 0
    kv_usage: float = 0.0
    """Share of the KV blocks in use after the last step, 0 to 1."""
    peak_kv_usage: float = 0.0
    num_kv_blocks: int = 0
    """Blocks of the KV cache."""
    peak_kv_blocks: int = 0
    """Most of them in use at a time."""
    num_states: int = 0
    """Slots for states of sequences, and snapshots of them; 0: the model keeps none."""
    peak_states: int = 0
    """Most of them that sequences had at a time."""
    num_running: int = 0
    first_token_at: float | None = None
    """time.monotonic() of the first drawn token."""
    weights: dict[str, Any] = field(default_factory=dict)
    """Bytes, and how linear layers are kept, see quant/told.py; where ranks share the model, of the first."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Time of each part of the steps."""

    def count_medium(self) -> None:
        """Counts a run of the tower."""
        self.num_media += 1

    def count(self, step: Step, num_accepted: int, begun: Iterable[Sequence], scheduler: Scheduler) -> None:
        """Counts a step.

        Args:
            num_accepted: its drafts that came true, each of which gave an output a token more.
            begun: the sequences whose request has its first output token by it.
        """
        self.num_steps += 1
        num_drawn = step.num_drawn + num_accepted
        self.num_computed_tokens += int(step.schedule.counts.sum()) + num_accepted
        self.num_drafts += step.num_drafts
        self.num_accepted += num_accepted
        self.num_output_tokens += num_drawn
        for sequence in begun:
            self.num_prompt_tokens += sequence.num_prompt
            self.num_cached_tokens += sequence.num_cached
        self.num_preemptions = sum(lane.num_preemptions for lane in scheduler.lanes)
        self.num_running = scheduler.num_running
        self.kv_usage = scheduler.blocks.usage
        self.peak_kv_usage = max(self.peak_kv_usage, self.kv_usage)
        self.peak_kv_blocks = max(self.peak_kv_blocks, scheduler.blocks.num_held)
        if scheduler.blocks.states is not None:
            self.peak_states = max(self.peak_states, scheduler.blocks.states.num_held)
        if num_drawn and self.first_token_at is None:
            self.first_token_at = time.monotonic()


class Stopwatch:
    """Adds the time since it was last asked to one part of the steps or another.

    Args:
        share: what a second counts: less than 1 where other steps are computed beside this one.
    """

    __slots__ = ("_last", "_seconds", "_share")

    def __init__(self, seconds: dict[str, float], share: float = 1.0) -> None:
        self._seconds = seconds
        self._share = share
        self._last = time.perf_counter()

    def count(self, part: str) -> None:
        """Adds the time since the last call, or since the beginning, to `part`."""
        now = time.perf_counter()
        self._seconds[part] += (now - self._last) * self._share
        self._last = now
