"""Memory of a GPU: what it is used for, and what is left of it for the KV cache.

    total * gpu_memory_utilization
        = what others use + weights and the largest step (`peak`) + CUDA graphs + what torch does not know of + KV cache

Others are what was there when the plan was made: other processes, another model in this one, the CUDA context. What torch does not
know of are the workspaces of libraries and communicators that come after that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from ..errors import ConfigError, EngineError

#: The way out where a GPU has too little memory, whatever for.
_LESS = "a smaller dtype or quantization, --cpu-offload-gb, or more GPUs with --tensor-parallel-size"


class DeviceMemory(Protocol):
    """Memory of one device, in bytes."""

    @property
    def total(self) -> int: ...

    def free(self) -> int:
        """Bytes that nobody has taken; those that torch keeps for later are taken."""

    def reserved(self) -> int:
        """Bytes that torch has taken in this process, in use or kept for later."""

    def in_use(self) -> int:
        """Bytes that tensors of this process take."""

    def peak(self) -> int:
        """Most that torch had in use at a time since `reset_peak`; what is in use then counts."""

    def reset_peak(self) -> None: ...

    def synchronize(self) -> None:
        """Waits until the device has done all it was given."""

    def empty_cache(self) -> None:
        """Gives back what torch keeps for later."""


class CudaMemory:
    """A GPU's, through torch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def total(self) -> int:
        return torch.cuda.mem_get_info(self._device)[1]

    def free(self) -> int:
        return torch.cuda.mem_get_info(self._device)[0]

    def reserved(self) -> int:
        return torch.cuda.memory_reserved(self._device)

    def in_use(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self._device)

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()


def memory_of(device: torch.device) -> DeviceMemory | None:
    """A GPU's memory; None for a CPU, whose memory is not planned."""
    return CudaMemory(device) if device.type == "cuda" else None


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of a device's memory, and what they are for."""

    budget: int
    """Bytes that may be used in all."""
    others: int
    peak: int
    """Most that weights and a step take."""
    unknown: int
    """Bytes that torch does not know of."""
    graphs: int = 0
    """Those of recorded steps."""

    @property
    def left(self) -> int:
        """Bytes that the KV cache may take; below 0 where there is not even enough for the rest."""
        return self.budget - self.others - self.peak - self.unknown - self.graphs

    def __str__(self) -> str:
        unknown = f", {_gib(self.unknown)} libraries" if self.unknown else ""
        others = f", {_gib(self.others)} were taken before" if self.others else ""
        graphs = f", {_gib(self.graphs)} CUDA graphs" if self.graphs else ""
        return f"of {_gib(self.budget)} to use in all, {_gib(self.peak)} are weights and the largest step{graphs}{unknown}{others}"


class MemoryPlan:
    """The part of a device's memory that may be used, from before anything is loaded on.

    Args:
        utilization: share of the memory to use in all, others' counted.

    Raises ConfigError if less than that is free.
    """

    def __init__(self, memory: DeviceMemory, utilization: float) -> None:
        self.memory = memory
        memory.empty_cache()
        self._budget = int(memory.total * utilization)
        free = memory.free()
        self._others = memory.total - free
        self._in_use = memory.in_use()
        self._unknown = self._beside_torch()
        if free < self._budget:
            share = free / memory.total
            raise ConfigError(
                f"gpu_memory_utilization={utilization:g} of the GPU's {_gib(memory.total)} is {_gib(self._budget)}, "
                f"and {_gib(free)} are free; lower it to {int(share * 100) / 100:.2f} or less, or end what else runs on the GPU"
            )

    def measure(self, largest_step: Callable[[], None]) -> Usage:
        """Runs a step that no other is larger than, with everything but the KV cache in memory. Raises EngineError where it does not
        fit."""
        memory = self.memory
        memory.synchronize()
        memory.empty_cache()
        memory.reset_peak()
        try:
            largest_step()
            memory.synchronize()
        except torch.OutOfMemoryError as error:
            raise EngineError(
                "the GPU has no memory for the largest step beside the weights; "
                f"lower --max-num-batched-tokens or --max-num-seqs, or try {_LESS}"
            ) from error
        peak = memory.peak() - self._in_use
        memory.empty_cache()
        return Usage(self._budget, self._others, peak, max(0, self._beside_torch() - self._unknown))

    def beside(self, run: Callable[[], None], noun: str) -> int:
        """Most bytes that something has in use at a time, beside what is there before: room for it when it keeps them. Raises EngineError
        where there is none."""
        memory = self.memory
        memory.synchronize()
        memory.empty_cache()
        memory.reset_peak()
        before = memory.in_use()
        try:
            run()
            memory.synchronize()
        except (torch.OutOfMemoryError, EngineError) as error:
            raise EngineError(
                f"the GPU has no memory for {noun} beside the weights; lower --max-num-seqs, try --enforce-eager, or {_LESS}"
            ) from error
        taken = memory.peak() - before
        memory.empty_cache()
        return taken

    def _beside_torch(self) -> int:
        """Bytes that others have, and that this process has without torch's knowledge."""
        return self.memory.total - self.memory.free() - self.memory.reserved()


def no_room(usage: Usage) -> str:
    """The advice for a device with nothing left for the KV cache."""
    return f"{usage}; raise --gpu-memory-utilization, lower --max-num-batched-tokens or --max-num-seqs, or try {_LESS}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
