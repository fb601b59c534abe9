"""One tensor of a model and the checkpoint tensors it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cut import Cut
from .formats.values import QuantizedWeight, as_tensor

#: What a checkpoint has of a tensor.
Value = Tensor | QuantizedWeight


@dataclass(frozen=True, slots=True)
class Part:
    """A checkpoint tensor `name` of `shape`, or a cut of it, that fills the rows from `start` of a Parameter."""

    name: str
    shape: tuple[int, ...]
    start: int = 0
    cut: Cut | None = None

    @property
    def held(self) -> tuple[int, ...]:
        """The shape of what is taken of it."""
        return self.shape if self.cut is None else self.cut.shape(self.shape)


class Parameter:
    """A weight that is described first, and takes memory only when the first of its parts arrives.

    Fused weights (q, k and v; gate and up) are several parts stacked along the first dimension.

    Args:
        parts: name and shape of each, as the checkpoint has it; without a name: rows of zeros, which it does not have.
        cuts: what is taken of each; None: all of it, or of all parts.
        dtype: the one it is kept in whatever the model's is; None is the model's.
        store: takes the tensor once its last part is there; the parameter then lets go of both, so that who stores it does not live in
            a circle with it until memory is next looked through. None: it stays in `tensor`.
        take: in place of `store`: takes what is held of each part, quantized ones as they are and others in `dtype`; and the device that
            they are to be on.
    """

    __slots__ = ("_missing", "_store", "_take", "_taken", "dtype", "held", "parts", "shape", "tensor")

    def __init__(
        self,
        *parts: tuple[str, tuple[int, ...]],
        cuts: Sequence[Cut | None] | None = None,
        dtype: torch.dtype | None = None,
        store: Callable[[Tensor], None] | None = None,
        take: Callable[[list[Value], torch.device], None] | None = None,
    ) -> None:
        rows = 0
        placed: list[Part] = []
        for (name, shape), cut in zip(parts, cuts or [None] * len(parts), strict=True):
            placed.append(Part(name, shape, rows, cut))
            rows += placed[-1].held[0]
        self.parts = tuple(part for part in placed if part.name)
        self.shape = (rows, *placed[0].held[1:])
        self.tensor: Tensor = torch.empty(0)
        self.dtype = dtype
        self.held = True
        """False of what another stage of a pipeline has: it is known by name and shape, and never filled."""
        self._store = store
        self._take = take
        self._taken: list[Value] = [self.tensor] * len(placed)
        self._missing = len(self.parts)

    def fill(self, part: Part, value: Value, dtype: torch.dtype, device: torch.device) -> None:
        """Takes what is held of a checkpoint tensor, each part once. What is of the right kind already is kept, not copied."""
        dtype = self.dtype or dtype
        if self._take is not None:
            self._taken[self.parts.index(part)] = value if isinstance(value, QuantizedWeight) else value.to(device, dtype)
            self._missing -= 1
            if not self._missing:
                take, taken, self._take, self._taken = self._take, self._taken, None, []
                take(taken, device)
            return
        value = as_tensor(value, dtype)
        if part.held == self.shape:
            self.tensor = value.to(device, dtype)
        else:
            if self._missing == len(self.parts):
                self.tensor = torch.zeros(self.shape, dtype=dtype, device=device)
            self.tensor[part.start : part.start + value.shape[0]].copy_(value)
        self._missing -= 1
        if not self._missing and self._store is not None:
            store, self._store = self._store, None
            store(self.tensor)
            self.tensor = torch.empty(0)
