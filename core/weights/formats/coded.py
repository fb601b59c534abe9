"""Coded: a quantized weight of 4-bit codes that stand for 16 numbers, with scales by groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from infer.kernels.grouped import GroupedWeight, Scales

from ...errors import ModelError
from ..cut import Cut
from .values import Grouped, QuantizedWeight, between

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
#: The numbers of floats of 4 bits with 2 bits of exponent and 1 of mantissa.
E2M1 = (*_MAGNITUDES, *(-magnitude for magnitude in _MAGNITUDES))


def powers_of_two(exponents: Tensor) -> Tensor:
    """The scales 2^(e - 127) of 8-bit exponents. Raises ModelError for one that is not a number."""
    if bool((exponents.view(torch.uint8) == 255).any()):
        raise ModelError("a scale is not a number")
    return exponents.view(torch.float8_e8m0fnu)


@dataclass(frozen=True)
class Coded(QuantizedWeight):
    """4-bit codes of 16 numbers, with scales by groups along the input features: numbers[code] * (scale / divisor * factor)."""

    packed: Tensor
    """uint8 [out, in / 2], two codes in each, the first in the low bits."""
    numbers: Tensor
    """float32 [16]"""
    scale: Tensor
    """[out, groups], of any dtype that becomes float32 exactly."""
    group_size: int
    """Even, and a divisor of the input features."""
    divisor: Tensor | None = None
    """float32 [out]"""
    factor: Tensor | None = None
    """float32 [out]"""

    @property
    def shape(self) -> tuple[int, int]:
        return self.packed.shape[0], self.packed.shape[1] * 2

    @property
    def kind(self) -> object:
        extra = (self.divisor is None, self.factor is None)
        return Coded, tuple(self.numbers.tolist()), self.scale.dtype, self.group_size, *extra

    @property
    def scales(self) -> Tensor:
        """float32 [out, groups]: all that a number of a group is multiplied by."""
        scale = self.scale.float()
        if self.divisor is not None:
            scale = scale / self.divisor[:, None]
        return scale if self.factor is None else scale * self.factor[:, None]

    def dense(self) -> Tensor:
        pairs = torch.stack((self.numbers.repeat(16), self.numbers.repeat_interleave(16)), dim=1)
        values = pairs.index_select(0, self.packed.flatten().int())
        values = values.view(self.shape[0], -1, self.group_size) * self.scales[:, :, None]
        return values.view(self.shape)

    def in_groups(self) -> Grouped | None:
        """The same as small integers, twice the numbers with half the scales; None where they are not whole, or halves are not exact."""
        levels, scale = (self.numbers * 2).to(torch.int8), self.scale.float()
        if bool((levels != self.numbers * 2).any()):
            return None
        factor = None if self.factor is None else self.factor[:, None]
        halves = Scales(_exact(self.scales if factor is None else scale, 0.5), factor, 1 if factor is None else scale.shape[1])
        if bool((halves.widened() * 2 != self.scales).any()):
            return None
        codes = torch.stack((self.packed & 15, self.packed >> 4), dim=2).view(self.shape)
        return Grouped(GroupedWeight(codes, 4, self.group_size, halves, levels=levels))

    def rows(self, start: int, stop: int) -> Coded:
        return self._with(lambda part: part[start:stop])

    def reordered(self, order: Tensor) -> Coded:
        return self._with(lambda part: part.view(torch.uint8)[order].view(part.dtype) if _is_byte(part) else part[order])

    def cut(self, cut: Cut) -> QuantizedWeight | Tensor:
        start, stop, size = cut.start, cut.stop, self.group_size
        if cut.dim == 0 or start % 2 or stop % 2 or stop > self.shape[1] or not between(start, stop, size, self.shape[1]):
            return super().cut(cut)
        scale = self.scale[:, start // size : -(-stop // size)]
        return replace(self, packed=self.packed[:, start // 2 : stop // 2], scale=scale, group_size=min(size, stop - start))

    @classmethod
    def stacked(cls, parts: Sequence[QuantizedWeight]) -> Coded:
        coded = [part for part in parts if isinstance(part, Coded)]

        def stack(name: str) -> Tensor:
            # Floats of 8 bits cannot be concatenated by every version of torch; their bytes can.
            tensors = [getattr(part, name) for part in coded]
            return (
                torch.cat([one.view(torch.uint8) for one in tensors]).view(tensors[0].dtype) if _is_byte(tensors[0]) else torch.cat(tensors)
            )

        first = coded[0]
        divisor = None if first.divisor is None else stack("divisor")
        factor = None if first.factor is None else stack("factor")
        return replace(first, packed=stack("packed"), scale=stack("scale"), divisor=divisor, factor=factor)

    def _with(self, of: Callable[[Tensor], Tensor]) -> Coded:
        divisor = None if self.divisor is None else of(self.divisor)
        factor = None if self.factor is None else of(self.factor)
        return replace(self, packed=of(self.packed), scale=of(self.scale), divisor=divisor, factor=factor)


def _exact(scale: Tensor, times: float) -> Tensor:
    """float32 `scale` times a power of two, in bfloat16 if that keeps every bit."""
    wide = scale * times
    narrow = wide.bfloat16()
    return narrow if bool((narrow.float() == wide).all()) else wide


def _is_byte(tensor: Tensor) -> bool:
    return tensor.element_size() == 1
