"""Channels between the ranks of two neighbouring stages: hidden states go one way, in the order in which they are sent.

A message is up to three tensors [N, F] or [N]. Whoever sends does not wait for whoever receives as long as there are slots free, of
which there is one for each step that may be on its way, and one for what was received last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .group import Lost

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.int32, torch.int64)
#: int64 numbers before a message: its bytes, then of each tensor its dtype, dimensions and sizes.
HEAD = 16
MOST_TENSORS = 3


class Channel(Protocol):
    def send(self, tensors: Sequence[Tensor]) -> None:
        """Gives them to the other side, which may change what it gets. Raises Lost."""

    def receive(self) -> list[Tensor]:
        """The next message: it may be overwritten, and lasts until the next call. Raises Lost."""


def head_of(tensors: Sequence[Tensor]) -> Tensor:
    """int64 [HEAD]: the numbers before a message."""
    assert len(tensors) <= MOST_TENSORS, "a message has no more"
    numbers = [sum(map(room_of, tensors)), len(tensors)]
    for tensor in tensors:
        assert tensor.dim() <= 2, "rows, or one number each"
        numbers += [_DTYPES.index(tensor.dtype), tensor.dim(), *tensor.shape, *[0] * (2 - tensor.dim())]
    return torch.tensor([*numbers, *[0] * (HEAD - len(numbers))], dtype=torch.int64)


def told_by(head: Tensor) -> list[tuple[torch.dtype, list[int]]]:
    """dtype and shape of each tensor of a message."""
    _, count, *numbers = head.tolist()
    each = [numbers[4 * i : 4 * i + 4] for i in range(count)]
    return [(_DTYPES[dtype], [first, second][:dims]) for dtype, dims, first, second in each]


def room_of(tensor: Tensor) -> int:
    """Its bytes, up to where the next may begin."""
    return -(-tensor.nbytes // 64) * 64


class TorchChannel:
    """Over a backend of torch.distributed that both ranks are part of."""

    def __init__(self, backend: Any, other: int, device: torch.device, ahead: int) -> None:
        self._backend, self._other, self._device, self._ahead = backend, other, device, ahead
        self._sent: deque[tuple[Any, Tensor]] = deque()
        """Tensors are kept until they are gone."""

    def send(self, tensors: Sequence[Tensor]) -> None:
        try:
            for tensor in (head_of(tensors).to(self._device), *tensors):
                kept = tensor.contiguous()
                self._sent.append((self._backend.send([kept], self._other, 0), kept))
            while len(self._sent) > self._ahead * (1 + MOST_TENSORS):
                self._sent.popleft()[0].wait()
        except RuntimeError as error:
            raise Lost(str(error).splitlines()[0]) from error

    def receive(self) -> list[Tensor]:
        head = self._filled(torch.empty(HEAD, dtype=torch.int64, device=self._device))
        return [self._filled(torch.empty(shape, dtype=dtype, device=self._device)) for dtype, shape in told_by(head)]

    def _filled(self, tensor: Tensor) -> Tensor:
        try:
            self._backend.recv([tensor], self._other, 0).wait()
        except RuntimeError as error:
            raise Lost(str(error).splitlines()[0]) from error
        return tensor
