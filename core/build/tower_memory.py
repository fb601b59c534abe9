"""Memory of the tower that reads a model's media, beside that of the language model: weights, and one run of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..media.store import MediaStore
    from ..settings.config import EngineConfig
    from ..spec.model_spec import ModelSpec
    from ..weights.source import ModelSource

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class TowerMemory:
    """
    Args:
        weights: bytes of its weights once it is loaded.
        run: loads it and reads the largest medium, so that what that takes can be measured. Raises ModelError.
    """

    weights: int
    run: Callable[[], None]

    @classmethod
    def of(cls, config: EngineConfig, source: ModelSource, spec: ModelSpec, store: MediaStore | None) -> TowerMemory | None:
        """None where no medium comes: the model reads none, or `limit_mm_per_prompt` allows none."""
        if store is None or spec.stack is None or not any(store.loader.policy.most.get(kind, 1) for kind in store.kinds):
            return None
        names = spec.stack.naming.media
        tensors = source.tensors() if names and source.has_weights else {}
        counts = [math.prod(info.shape) for name, info in tensors.items() if name.startswith(names)]
        return cls(sum(counts) * _ITEM_BYTES[config.dtype], lambda: store.try_largest(config.max_model_len, config.mm_processor_kwargs))
