"""Threads of the compiled kernels: each thread that calls them has a team of its own. See src/pool.h."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import library

_set = library.function("infer_set_threads", "i")
_set_usual = library.function("infer_set_usual_threads", "i")
_place = library.function("infer_place_workers", "pii")
_get = library.function("infer_get_threads", "p")


def set_threads(count: int) -> None:
    """`infer.kernels.set_threads` for these alone; 0: what a thread has that has said nothing."""
    _set(count)


def set_usual_threads(count: int) -> None:
    """The threads of a calling thread that has said nothing, such as one that a library's user makes; 0: as many as
    OMP_NUM_THREADS says or there are CPUs to use."""
    _set_usual(count)


def place_workers(cpus: Sequence[int], *, usual: bool) -> None:
    """`infer.kernels.place_workers`."""
    _place(torch.tensor(cpus, dtype=torch.int64), len(cpus), int(usual))


def threads() -> int:
    """The number of threads that the calling thread's kernels run in."""
    count = torch.empty(1, dtype=torch.int64)
    _get(count)
    return int(count)
