"""Exchange between the ranks of one machine through memory that they share, on a CPU.

The memory has no name: it is made by the parent, inherited by the other ranks as an open file, and gone with the last of them, however
they end. Who waits looks for some microseconds and then sleeps; it is never woken by a rank that died, so it looks from time to time
whether all are there. The layout is drawn in kernels/cpu/src/exchange.cpp.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from infer.kernels.cpu.library import DTYPES, function

from ..errors import EngineError
from .channel import HEAD, head_of, room_of, told_by
from .group import Group, Lost, as_bytes

#: Bytes of a line of memory: a number that others wait for is alone on its own.
LINE = 64
#: Bytes that a rank gives at a time: they stay in a core's cache until the others have read them.
SLOT = 1 << 19
#: Nanoseconds from one look at the others to the next.
_LOOK = 100_000_000

_share_sum = function("infer_share_sum", "ppppiiiiii")
_share_columns = function("infer_share_columns", "ppppiiiiii")
_share_set = function("infer_share_set", "pi")
_share_wait = function("infer_share_wait", "ppii")

_HEAD = 8 * HEAD


def new_memory(num_bytes: int) -> int:
    """The descriptor of so many bytes of zeros that have no name. Raises EngineError where there is no room for them."""
    try:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("infer-ranks")
        else:
            folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
            with tempfile.TemporaryFile(dir=folder) as file:
                descriptor = os.dup(file.fileno())
    except OSError as error:
        raise EngineError(f"there is no memory that ranks can share: {error.strerror}") from error
    try:
        os.ftruncate(descriptor, num_bytes)
    except OSError as error:
        os.close(descriptor)
        raise EngineError(f"there is no memory that ranks can share: {error.strerror}") from error
    return descriptor


def mapped(descriptor: int) -> Tensor:
    """The memory of a descriptor, which is closed: uint8 [bytes], there as long as the tensor is."""
    try:
        return torch.frombuffer(mmap.mmap(descriptor, os.fstat(descriptor).st_size), dtype=torch.uint8)
    except (OSError, ValueError) as error:
        raise EngineError(f"there is no memory that ranks can share: {error}") from error
    finally:
        with suppress(OSError):
            os.close(descriptor)


def group_bytes(size: int, slot: int = SLOT) -> int:
    """The bytes that a `SharedGroup` of so many ranks takes."""
    return size * (LINE + 2 * slot)


class Patience:
    """Waiting for others: each look at them, until they are gone or time is up.

    Args:
        missing: says who is gone, or "".
        stall_timeout: seconds that a wait may take.
    """

    def __init__(self, missing: Callable[[], str], stall_timeout: float) -> None:
        self._missing = missing
        self._stall_timeout = stall_timeout

    def wait(self, attempt: Callable[[int], bool]) -> None:
        """Makes attempts of so many nanoseconds until one succeeds. Raises Lost."""
        if attempt(_LOOK):
            return
        until = time.monotonic() + self._stall_timeout
        while not attempt(_LOOK):
            if why := self._missing():
                raise Lost(why)
            if time.monotonic() > until:
                raise Lost("time is up")


class SharedGroup(Group):
    """Ranks whose sums go through shared memory, always in the order of ranks and in float32: the bytes are those of `TorchGroup`.

    Args:
        memory: uint8 [group_bytes(size)], the same and only theirs, zeros at first.
    """

    def __init__(self, memory: Tensor, rank: int, size: int, patience: Patience, *, whole_experts: bool = False, slot: int = SLOT) -> None:
        assert len(memory) == group_bytes(size, slot)
        self.rank, self.size, self.whole_experts = rank, size, whole_experts
        self._memory = memory
        self._patience = patience
        self._slot = slot
        self._state = torch.zeros(4, dtype=torch.int64)

    def all_reduce(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        place = (self.rank, self.size, self._slot, x.numel(), DTYPES[x.dtype])
        self._until_ended(lambda time: _share_sum(self._memory, self._state, x, x, *place, time))
        return x

    def gather(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        out = x.new_empty(len(x), self.size * x.shape[1]) if self.rank == 0 else None
        place = (self.rank, self.size, self._slot, len(x), x.shape[1] * x.element_size())
        self._until_ended(lambda time: _share_columns(self._memory, self._state, x, out, *place, time))
        return x if out is None else out

    def broadcast(self, x: Tensor) -> Tensor:
        raise AssertionError("no step of a CPU begins before the one before it has ended")

    def _until_ended(self, call: Callable[[int], None]) -> None:
        def attempt(nanoseconds: int) -> bool:
            call(nanoseconds)
            return bool(self._state[3])

        self._patience.wait(attempt)


class SharedChannel:
    """A channel from one rank to another through shared memory. What is received lies in it.

    Numbers of pieces, each on a line of its own, then the slots:

        [ sent | taken | 0 | 1 | ... ]      each slot: the head, then up to `slot` bytes of the message

    A message that is larger goes in several pieces.
    """

    def __init__(self, memory: Tensor, slots: int, slot: int, patience: Patience) -> None:
        assert len(memory) == channel_bytes(slots, slot)
        self._sent_line, self._taken_line = memory[:LINE], memory[LINE : 2 * LINE]
        self._slots = memory[2 * LINE :].view(slots, _HEAD + slot)
        self._slot, self._patience = slot, patience
        self._number = self._held = 0
        self._came = torch.zeros(1, dtype=torch.int64)

    def send(self, tensors: Sequence[Tensor]) -> None:
        head = head_of(tensors)
        total = int(head[0])
        if total <= self._slot:
            place = self._free_slot(head)
            for tensor in tensors:
                place[: tensor.nbytes].copy_(as_bytes(tensor))
                place = place[room_of(tensor) :]
            self._post()
            return
        whole = torch.zeros(total, dtype=torch.uint8)
        for at, tensor in zip(accumulate(map(room_of, tensors), initial=0), tensors, strict=False):
            whole[at : at + tensor.nbytes].copy_(as_bytes(tensor))
        for piece in whole.split(self._slot):
            self._free_slot(head)[: len(piece)].copy_(piece)
            self._post()

    def receive(self) -> list[Tensor]:
        self._release()
        slot = self._next_slot()
        head = slot[:_HEAD].view(torch.int64)
        told, total, data = told_by(head), int(head[0]), slot[_HEAD:]
        if total > self._slot:
            pieces = [data.clone()]
            self._release()
            while (left := total - self._slot * len(pieces)) > 0:
                pieces.append(self._next_slot()[_HEAD:][:left].clone())
                self._release()
            data = torch.cat(pieces)
        tensors = []
        for dtype, shape in told:
            size = math.prod(shape) * dtype.itemsize
            tensors.append(data[:size].view(dtype).view(shape))
            data = data[-(-size // LINE) * LINE :]
        return tensors

    def _release(self) -> None:
        """What was received is not looked at any more."""
        if self._held:
            _share_set(self._taken_line, self._held)
            self._held = 0

    def _free_slot(self, head: Tensor) -> Tensor:
        """The bytes of the next slot to write, with the head before them."""
        self._wait(self._taken_line, self._number + 1 - len(self._slots))
        slot = self._slots[self._number % len(self._slots)]
        slot[:_HEAD].copy_(head.view(torch.uint8))
        return slot[_HEAD:]

    def _post(self) -> None:
        self._number += 1
        _share_set(self._sent_line, self._number)

    def _next_slot(self) -> Tensor:
        """The next slot to read, which is held from now on."""
        self._wait(self._sent_line, self._number + 1)
        slot = self._slots[self._number % len(self._slots)]
        self._number += 1
        self._held = self._number
        return slot

    def _wait(self, line: Tensor, number: int) -> None:
        def attempt(nanoseconds: int) -> bool:
            _share_wait(line, self._came, number, nanoseconds)
            return bool(self._came[0])

        if number > 0:
            self._patience.wait(attempt)


def channel_bytes(slots: int, slot: int) -> int:
    """The bytes that a `SharedChannel` of so many slots of `slot` bytes takes; `slot` is a multiple of LINE."""
    assert slot % LINE == 0
    return 2 * LINE + slots * (_HEAD + slot)
