"""Requests of the pooling engine, and their results. No torch: the job layer holds these."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import RecordError
from .adapters import LoRARequest
from .placed import Placed
from .pooling_params import PoolingParams

#: What is made of a text: one vector; the scores of a classifier; a vector, or scores, for every token.
KINDS = ("embed", "classify", "token_embed", "token_classify")


@dataclass(frozen=True, slots=True)
class TextIds:
    """One text, or pair of texts, as the model reads it. `types` tells the two apart where the model was trained so (BERT);
    empty: all zero. The first `skip` tokens take no part in mean pooling (a prompt, where the recipe leaves it out). The last `unseen`
    tokens see the others, and no token sees them; the `silent` ones, by their places, get no vector where each token gets one.

    In the place of a text there may be an `image`, the same where `image_key` is; its `ids` are then as many zeros as it counts for."""

    ids: tuple[int, ...]
    types: tuple[int, ...] = ()
    skip: int = 0
    unseen: int = 0
    silent: tuple[int, ...] = ()
    image_key: str = ""
    image: Placed | None = field(default=None, compare=False)


@dataclass(slots=True)
class PoolingRequest:
    """Some texts that are answered together. `index` counts requests, for messages and order."""

    request_id: str
    texts: list[TextIds]
    params: PoolingParams
    kind: str = "embed"
    index: int = 0
    lora: LoRARequest | None = None
    """The adapter that reads its texts; None: the model alone."""


@dataclass(slots=True)
class Pooled:
    """The answer to a PoolingRequest, or its error: then `values` is empty.

    Each of `values` is float32: [size] of a text; [tokens, size] with a kind of tokens.
    """

    request_id: str
    values: list[NDArray[np.float32]] = field(default_factory=list)
    num_tokens: int = 0
    """Of all its texts."""
    error: RecordError | None = None
