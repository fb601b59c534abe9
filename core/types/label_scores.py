"""Scores of labels: their probabilities among themselves, and how much of all there is they have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LabelScores:
    """
    Args:
        logprobs: label -> log-probability that the model writes it after the prompt; -inf: it cannot.
        probs: label -> its share among the labels; with a calibration, of what is left when that is taken off. Their sum is 1.
        label_mass: the probability that the model writes any of the labels: how much the question made sense to it.
        best_first: the labels by `probs`; among equals in the order in which they were given.
    """

    logprobs: Mapping[str, float]
    probs: Mapping[str, float]
    label_mass: float
    best_first: tuple[str, ...]

    @classmethod
    def of(cls, labels: Sequence[str], logprobs: Sequence[float], calibration: Sequence[float] | None = None) -> LabelScores | None:
        """None where no label has a probability above zero.

        Args:
            calibration: the labels' log-probabilities after a prompt without content, which are taken off (Zhao et al. 2021; Holtzman
                et al. 2021 call the difference the pointwise mutual information). A label that has none there keeps its own.
        """
        scores = list(logprobs)
        if calibration is not None:
            scores = [own - other if other > -math.inf else own for own, other in zip(logprobs, calibration, strict=True)]
        most = max(scores)
        if most == -math.inf:
            return None
        shares = [math.exp(score - most) for score in scores]
        total = sum(shares)
        probs = dict(zip(labels, (share / total for share in shares), strict=True))
        mass = min(1.0, sum(math.exp(logprob) for logprob in logprobs))
        return cls(dict(zip(labels, logprobs, strict=True)), probs, mass, tuple(sorted(labels, key=lambda label: -probs[label])))
