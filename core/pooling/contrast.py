"""Contrast: the scores that a model of two towers makes of the cosine of an image and a text. No torch.

CLIP (arXiv 2103.00020): exp(logit_scale) * cosine, and as probabilities their softmax over the texts of one image. SigLIP
(arXiv 2303.15343): exp(logit_scale) * cosine + logit_bias, and as a probability the sigmoid of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ModelError
from ..spec.model_spec import ModelSpec
from ..weights.source import ModelSource
from .similarity import Vector, similarity

#: Where a checkpoint has no weights to read it of.
_INITIAL_SCALE = 2.6592


@dataclass(frozen=True, slots=True)
class Contrast:
    """
    Args:
        scale, bias: the score is scale * cosine + bias.
        activation: what makes probabilities of scores, "softmax" or "sigmoid".
    """

    scale: float
    bias: float
    activation: str

    def scores(self, image: Sequence[Vector], text: Sequence[Vector], *, activate: bool) -> list[np.float32]:
        """Of pairs of vectors; with `activate` as probabilities, of which the softmax is that of all these pairs."""
        exact = [self.scale * float(similarity("cosine", a, b)) + self.bias for a, b in zip(image, text, strict=True)]
        if activate and self.activation == "sigmoid":
            exact = [1 / (1 + math.exp(-one)) if one > -700 else 0.0 for one in exact]
        elif activate:
            shares = [math.exp(one - max(exact)) for one in exact]
            exact = [share / sum(shares) for share in shares]
        return [np.float32(one) for one in exact]


def read_contrast(source: ModelSource, spec: ModelSpec) -> Contrast:
    """With the numbers that the checkpoint has learned. Raises ModelError where they are not there."""
    assert spec.towers is not None
    sigmoid = spec.towers.activation == "sigmoid"
    if not source.has_weights:
        return Contrast(math.exp(_INITIAL_SCALE), 0.0, spec.towers.activation)
    scale = _number(source, "logit_scale")
    return Contrast(math.exp(scale), _number(source, "logit_bias") if sigmoid else 0.0, spec.towers.activation)


def _number(source: ModelSource, name: str) -> float:
    """A tensor of one number."""
    stored = source.stored
    info = stored.tensors().get(name)
    if info is None or math.prod(info.shape) != 1:
        raise ModelError(f"model {source.name!r} has no {name}, of which scores of images and texts are made; fetch it again")
    data = stored.content(name)
    if info.dtype == "BF16":
        return float(np.frombuffer(b"\0\0" + data, dtype="<f4")[0])
    dtypes = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
    if info.dtype not in dtypes:
        raise ModelError(f"model {source.name!r}: {name} is stored as {info.dtype}, which is no dtype of weights")
    found = float(np.frombuffer(data, dtype=dtypes[info.dtype])[0])
    if not math.isfinite(found) or found > 80:
        raise ModelError(f"model {source.name!r}: {name} is {found}, which is no scale of scores")
    return found
