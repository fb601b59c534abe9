"""Transfers of small tensors between the host and a GPU, without either waiting for the other.

A plain copy to a GPU waits until the GPU has done all it was given, which may be a whole step; one from pinned memory does not, if
both sides are in one piece: of rows with gaps torch makes a plain copy first.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on(device: torch.device) -> AbstractContextManager[None]:
    """Makes a GPU the thread's current one, where streams, events and what is not ours are by default; leaves it as it was after."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor itself on a CPU; elsewhere a copy in one piece that is there before anything that is computed after this call."""
    if device.type != "cuda" or not tensor.numel():
        return tensor.to(device)
    # The allocator of pinned memory does not hand it out again before the copy is done.
    return _pinned(tensor).copy_(tensor).to(device, non_blocking=True)


def _pinned(like: Tensor) -> Tensor:
    """Pinned memory in one piece, of any content."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)


class ToHost:
    """Tensors on their way to the host, as they are at this moment of the device's work."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._arrived: torch.cuda.Event | None = None
        if tensors and tensors[0].device.type == "cuda":
            with on(tensors[0].device):
                self._tensors = [_pinned(t).copy_(t, non_blocking=True) for t in tensors]
                self._arrived = torch.cuda.Event()
                self._arrived.record()

    def wait(self) -> list[Tensor]:
        """The tensors on the host; waits for the work that makes them, and for none that was given to the device later."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors
