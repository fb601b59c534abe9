"""A part of a checkpoint tensor: what one rank holds of a weight that several share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Cut:
    """Entries `start` to `stop` of dimension `dim` (0 or 1). What lies beyond the tensor's end is zero: a vocabulary that does
    not divide evenly is padded so."""

    dim: int
    start: int
    stop: int

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of this part of a tensor of shape `whole`."""
        return (*whole[: self.dim], self.stop - self.start, *whole[self.dim + 1 :])

    def within(self, size: int) -> tuple[int, int]:
        """(start, stop) of what there is of it in a dimension of `size`."""
        return min(self.start, size), min(self.stop, size)

    def of(self, whole: Tensor) -> Tensor:
        """This part of a whole tensor, in memory of its own."""
        start, stop = self.within(whole.shape[self.dim])
        return self.padded(whole.narrow(self.dim, start, stop - start))

    def padded(self, part: Tensor) -> Tensor:
        """A contiguous part with its padding, from what there is of it; never a view of `part` unless it is all of it."""
        if part.shape[self.dim] == self.stop - self.start:
            return part.clone() if part._is_view() else part.contiguous()
        out = part.new_zeros(self.shape(tuple(part.shape)))
        out.narrow(self.dim, 0, part.shape[self.dim]).copy_(part)
        return out
