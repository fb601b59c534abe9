"""Threads of the compiled kernels: each thread that calls them has a team of its own. See src/pool.h."""

from __future__ import annotations

import torch

from . import library

_set = library.function("infer_set_threads", "i")
_get = library.function("infer_get_threads", "p")


def set_threads(count: int) -> None:
    """`infer.kernels.set_threads` for these alone; 0: as many as OMP_NUM_THREADS says or there are CPUs to use, which is what a thread
    has that has said nothing."""
    _set(count)


def threads() -> int:
    """The number of threads that the calling thread's kernels run in."""
    count = torch.empty(1, dtype=torch.int64)
    _get(count)
    return int(count)
