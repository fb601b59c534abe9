"""Similarity of two embeddings, by the measures that sentence-transformers names. No torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


#: Between the vectors of two texts' tokens (late interaction), as PyLate names it.
MAXSIM = "MaxSim"


def similarity(measure: str, a: Vector, b: Vector) -> np.float32:
    """Of two vectors float32 [size]; more is more alike, so distances are negative.

    Computed in float64 from one pair alone: exact enough that the float32 given is the same wherever it is computed. The cosine
    with a vector of zeros is 0.

    Args:
        measure: one of MEASURES; MAXSIM of two texts with vectors [tokens, size].
    """
    if measure == MAXSIM:
        return np.float32(_maxsim(a.astype(np.float64), b.astype(np.float64)))
    return np.float32(MEASURES[measure](a.astype(np.float64), b.astype(np.float64)))


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    lengths = float(np.sqrt((a * a).sum()) * np.sqrt((b * b).sum()))
    return float((a * b).sum()) / lengths if lengths else 0.0


def _maxsim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Over the vectors of a, the sum of the greatest product with one of b (arXiv 2004.12832). einsum adds up each product by itself."""
    return float(np.einsum("qd,td->qt", a, b).max(axis=1).sum())


MEASURES: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], float]] = {
    "cosine": _cosine,
    "dot": lambda a, b: float((a * b).sum()),
    "euclidean": lambda a, b: -float(np.sqrt(np.square(a - b).sum())),
    "manhattan": lambda a, b: -float(np.abs(a - b).sum()),
}
