"""Statistics of a pooling engine."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.stats import EngineStats


@dataclass(slots=True)
class PoolingStats(EngineStats):
    """Prompt tokens count once their text is computed; cached ones are those of texts that were the same as one that waited, and
    so were not computed for themselves. `first_token_at` is the time of the first vector; `sample` among the seconds is pooling
    and all that comes after it, `batch` making arrays, `commit` handing out answers."""

    num_texts: int = 0
    """Texts that were computed, or the same as one that was."""
    num_duplicates: int = 0
    """Those that were the same."""
