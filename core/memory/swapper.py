"""Copies of KV blocks between the device and CPU memory: the tensors of `SwapSpace`'s books."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

from infer.kernels.ops import KVCache, Ops

from ..errors import EngineError
from ..settings.config import EngineConfig
from .swap import SwapCosts, SwapSpace


class Lane(Protocol):
    """The place where copies are made."""

    def copy(self, copies: Callable[[], None]) -> None:
        """Makes copies after all that was given to the device until now, and before what is given to it from now on."""

    def measured(self) -> list[float]:
        """Seconds that each of the last `copy` took, in order, as far as they are done; each is told once."""


class InlineLane:
    """The calling thread."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def copy(self, copies: Callable[[], None]) -> None:
        started = perf_counter()
        copies()
        self._seconds.append(perf_counter() - started)

    def measured(self) -> list[float]:
        done, self._seconds = self._seconds, []
        return done


class CudaLane:
    """A stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._under_way: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def copy(self, copies: Callable[[], None]) -> None:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        computing = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            begin.record(self._stream)
            copies()
            end.record(self._stream)
        # The step may overwrite what was read, and reads what was written.
        computing.wait_event(end)
        self._under_way.append((begin, end))

    def measured(self) -> list[float]:
        done = []
        while self._under_way and self._under_way[0][1].query():
            begin, end = self._under_way.popleft()
            done.append(begin.elapsed_time(end) / 1000)
        return done


class Swapper:
    """One rank's blocks in CPU memory. Their memory is taken when the first sequence is swapped: most runs never come to it.

    Args:
        num_blocks: CPU blocks.
        lane: where copies are made; None: the device's own.
    """

    def __init__(self, ops: Ops, caches: list[KVCache], num_blocks: int, lane: Lane | None = None) -> None:
        self.num_blocks = num_blocks
        self.block_bytes = sum(cache.key[0].nbytes + cache.value[0].nbytes for cache in caches)
        self.costs: SwapCosts | None = None
        """Told how long copies take."""
        self._ops = ops
        self._caches = caches
        self._host: list[KVCache] = []
        device = caches[0].key.device
        self._lane: Lane = lane or (CudaLane(device) if device.type == "cuda" else InlineLane())
        self._sizes: deque[int] = deque()

    def books(self, config: EngineConfig) -> SwapSpace:
        """The scheduler's books of these blocks, none of them used."""
        self.costs = SwapCosts(self.block_bytes)
        return SwapSpace(self.num_blocks, config.block_size, self.costs, config.preemption_mode)

    def move(self, out: NDArray[Any], back: NDArray[Any]) -> None:
        """Copies blocks out[i] = (device, CPU), [O, 2], and then back[i] = (CPU, device), [I, 2]. Raises EngineError where the memory is
        not to be had."""
        for seconds in self._lane.measured():
            size = self._sizes.popleft()
            if self.costs is not None:
                self.costs.copied(size, seconds)
        if not len(out) and not len(back):
            return
        if not self._host:
            self._allocate()
        pairs_out, pairs_back = torch.from_numpy(out), torch.from_numpy(back)

        def copies() -> None:
            for cache, host in zip(self._caches, self._host, strict=True):
                if len(out):
                    self._ops.swap_out(cache, host, pairs_out[:, 0], pairs_out[:, 1])
                if len(back):
                    self._ops.swap_in(cache, host, pairs_back[:, 0], pairs_back[:, 1])

        self._sizes.append((len(out) + len(back)) * self.block_bytes)
        self._lane.copy(copies)

    def _allocate(self) -> None:
        try:
            self._host = [self._ops.new_host_cache(self.num_blocks, cache) for cache in self._caches]
        except (RuntimeError, MemoryError) as error:
            size = self.num_blocks * self.block_bytes / 2**30
            raise EngineError(
                f"no CPU memory for {size:.2f} GiB of preempted records; lower --swap-space (0: they are computed again)"
            ) from error
