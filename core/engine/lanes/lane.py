"""Lane: what one of an engine's batches in flight has for itself."""

from __future__ import annotations

from dataclasses import dataclass

from ...sampling.sampler import Sampler
from ...types.request import Sequence
from ..batch import Batch
from ..overlap import Step
from ..prompt_logprobs import PromptLogprobs
from ..schedule import Schedule
from ..scheduler import Scheduler
from ..speculation.speculation import Speculation


@dataclass(frozen=True, slots=True)
class Planned:
    """A step that was scheduled and packed, and is not computed."""

    schedule: Schedule
    batch: Batch


class Lane:
    """
    Args:
        scheduler: with running sequences that are this lane's, and books that are everyone's.
        sampler: this lane's: it remembers what the sequences of a step have said.
        lacking: see `PromptLogprobs`.
        speculation: what makes drafts for this lane's sequences; None: they have none.
    """

    def __init__(self, scheduler: Scheduler, sampler: Sampler, lacking: set[Sequence], speculation: Speculation | None = None) -> None:
        self.scheduler = scheduler
        self.sampler = sampler
        self.speculation = speculation
        self.prompt_logprobs = PromptLogprobs(sampler, lacking)
        self.step: Step | None = None
        """Begun in the last call of `Engine.step`, to be finished in the next: where steps overlap."""

    def begun(self, schedule: Schedule) -> None:
        """A step is on its way: what it writes to is not given away until it has ended."""
        assert self.scheduler.overruns is not None
        self.scheduler.overruns.fly(schedule.sequences)

    def ended(self, step: Step | None = None) -> None:
        """It is over: those that were dropped meanwhile have no part in it, and what it wrote to may be given away."""
        overruns = self.scheduler.overruns
        assert overruns is not None
        if step is not None:
            step.drop(overruns.apart)
        overruns.fly()
        overruns.free()
