"""Ranks meet, and know that they have before anything hangs on it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from infer.core.errors import EngineError
from infer.core.parallel.group import TorchGroup, join

CPU = torch.device("cpu")


def met(folder: Path, rank: int, *, size: int = 2) -> TorchGroup:
    group = join(str(folder), rank, size, device=CPU, stall_timeout=60, deterministic=False)
    group.greet(CPU)
    return group


def test_each_greets_all(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        groups = list(pool.map(lambda rank: met(tmp_path, rank), range(2)))
        sums = list(pool.map(lambda group: group.all_reduce(torch.full((3,), group.rank + 1.0)), groups))
    assert [total.tolist() for total in sums] == [[3.0] * 3] * 2


def test_one_that_counts_others_is_told(tmp_path: Path) -> None:
    class Backend:
        def rank(self) -> int:
            return 0

        def size(self) -> int:
            return 3

    class Alone(TorchGroup):
        def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    with pytest.raises(EngineError, match="the 3 ranks cannot meet: only 2 came"):
        Alone(Backend(), ordered=True).greet(CPU)
