"""Schedule: the scheduler's decisions for one step."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..memory.swap import Pairs
from ..types.request import Sequence


@dataclass(slots=True)
class Schedule:
    """One step. Its S sequences are the first running ones, each with its next tokens that are not computed."""

    sequences: list[Sequence]
    counts: NDArray[np.int64]
    """[S] how many tokens of each."""
    samples: NDArray[np.bool_]
    """[S] whether these are the last it has, so that the next one is drawn after them."""
    copies: list[tuple[int, int]]
    """(source, target) block copies to make first."""
    admitted: list[Sequence]
    """Those of the sequences that did not run before."""
    traits: NDArray[np.uint16]
    """[S] see running.py."""
    drafts: dict[int, list[int]] = field(default_factory=dict)
    """Row -> tokens that may come next after its newest one, and are computed with it to be there if they do. No part of `counts`."""
    swap_out: Pairs = field(default_factory=list)
    """(device, CPU) block copies to make before all else."""
    swap_in: Pairs = field(default_factory=list)
    """(CPU, device) block copies to make then, before `copies`."""
    state_copies: list[tuple[int, int]] = field(default_factory=list)
    """(source, target) copies of states to make at once, before the step."""
    began: float = 0.0
    """The time at which it was made, by the clock of `SwapCosts`; 0 without swap."""
    all_sample: bool = field(init=False)
    """True if every one of the sequences draws a token in this step. Most steps are like that."""

    def __post_init__(self) -> None:
        self.all_sample = np.count_nonzero(self.samples) == len(self.samples)

    @property
    def num_drafts(self) -> NDArray[np.int64]:
        """[S] the number of each one's drafts."""
        numbers = np.zeros(len(self.counts), dtype=np.int64)
        for row, tokens in self.drafts.items():
            numbers[row] = len(tokens)
        return numbers

    @property
    def drawing(self) -> list[Sequence]:
        """The sequences that sample."""
        return self.sequences if self.all_sample else [self.sequences[row] for row in self.samples.nonzero()[0].tolist()]
