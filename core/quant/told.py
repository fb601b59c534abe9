"""What a model's weights are kept in and multiplied by, as `--stats` tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from .base import LinearMethod


def weights_told(methods: Iterable[LinearMethod], other_bytes: int, dtype: torch.dtype) -> dict[str, Any]:
    """Bytes of a model's weights, and of its linear layers how many are kept in which way.

    Args:
        methods: of its linear layers, the head's too. Layers that are stacked count as one where they are kept in one way.
        other_bytes: of what is in no linear layer.
        dtype: the model's.
    """
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for method in methods:
        for words, num_bytes in method.ways(dtype):
            count[words] += 1
            size[words] += num_bytes
    layers = [{"kept": words, "count": count[words], "bytes": size[words]} for words in count]
    return {"bytes": size.total() + other_bytes, "linear_layers": layers}
