"""What a model's weights are kept in and multiplied by, as `--stats` and the log tell it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from .base import LinearMethod


def kept(methods: Iterable[LinearMethod], dtype: torch.dtype) -> list[dict[str, Any]]:
    """How many linear layers are kept in which way, and their bytes. Layers that are stacked count as one where they are kept in one way.

    Args:
        dtype: the model's.
    """
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for method in methods:
        for words, num_bytes in method.ways(dtype):
            count[words] += 1
            size[words] += num_bytes
    return [{"kept": words, "count": count[words], "bytes": size[words]} for words in count]


def weights_told(methods: Iterable[LinearMethod], other_bytes: int, dtype: torch.dtype) -> dict[str, Any]:
    """Bytes of a model's weights, and of its linear layers, the head too, what `kept` says.

    Args:
        other_bytes: of what is in no linear layer.
    """
    layers = kept(methods, dtype)
    return {"bytes": sum(one["bytes"] for one in layers) + other_bytes, "linear_layers": layers}
