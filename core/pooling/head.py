"""Heads: from a pooled vector to an embedding, or to a classifier's scores.

All in float32, and every row by itself: what a text gets depends on nothing else in its step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..layers.linear import Linear
from ..sampling.transfers import ToHost
from .dense import Dense
from .setting import Setting

#: As in torch.nn.functional.normalize: what a length is not taken below.
EPS = 1e-12


class Head:
    """
    Args:
        classifier: see PoolingModel.
        activation: of a classifier's scores: "identity", "sigmoid" or "softmax".
    """

    def __init__(
        self, dense: Iterable[Dense] = (), classifier: Callable[[Tensor], Tensor] | None = None, activation: str = "identity"
    ) -> None:
        self._dense = tuple(dense)
        self._classifier = classifier
        self._activation = activation

    def linears(self) -> list[Linear]:
        """The float32 layers that are the head's own."""
        return [linear for dense in self._dense for linear in dense.linears()]

    @torch.inference_mode()
    def __call__(self, pooled: Tensor, count: int, setting: Setting) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(values [count, size], finite [count]) of the first rows of pooled, float32 [R, hidden_size].

        `finite` is false where the model gave, or the head made, something infinite or NaN.
        """
        return self.finish(self.begin(pooled, count, setting), setting)

    @torch.inference_mode()
    def begin(self, pooled: Tensor, count: int, setting: Setting) -> ToHost:
        """Gives the device its part of that to do; nothing waits for it."""
        values = self._scores(pooled) if setting.kind.endswith("classify") else self._embeddings(pooled)
        # An activation may have squashed what the model gave.
        return ToHost([values[:count]] if values is pooled else [values[:count], pooled[:count]])

    def finish(self, begun: ToHost, setting: Setting) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What calling it gives, when the device has done its part."""
        found, *given = (tensor.numpy() for tensor in begun.wait())
        made, finite = self.finished(found, setting)
        for rows in given:
            finite &= _finite(rows)
        return made, finite

    def finished(self, found: NDArray[np.float32], setting: Setting) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The same of vectors [count, size] that are projected already, or of scores."""
        finite = _finite(found)
        found = found[:, list(setting.columns)] if setting.columns else found[:, : setting.size]
        if not setting.activate:
            return found.copy(), finite
        return (activated(found, self._activation) if setting.kind.endswith("classify") else normalized(found)), finite

    def _embeddings(self, pooled: Tensor) -> Tensor:
        for dense in self._dense:
            pooled = dense(pooled)
        return pooled

    def _scores(self, pooled: Tensor) -> Tensor:
        assert self._classifier is not None, "the limits refuse it"
        return self._classifier(pooled)


def _finite(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.logical_and.reduce(np.isfinite(rows), axis=1)


def normalized(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """x / max(|x|, EPS) of each row [S, size], as torch.nn.functional.normalize(p=2). numpy adds up each row by itself."""
    with np.errstate(all="ignore"):  # what is not finite is not answered
        lengths = np.sqrt(np.add.reduce(values * values, axis=1, keepdims=True))
        return values / np.maximum(lengths, np.float32(EPS))


def activated(scores: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """A classifier's scores [S, labels] as probabilities; "identity" leaves them."""
    if kind == "identity":
        return scores
    exact = scores.astype(np.float64)
    with np.errstate(all="ignore"):  # as above; and exp(1000) is infinite, of which 1 / (1 + it) is rightly 0
        if kind == "sigmoid":
            return (1 / (1 + np.exp(-exact))).astype(np.float32)
        assert kind == "softmax", kind
        shares = np.exp(exact - exact.max(1, keepdims=True))
        return (shares / shares.sum(1, keepdims=True)).astype(np.float32)
