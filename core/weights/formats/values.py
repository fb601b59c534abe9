"""Quantized weights in memory: what a format decodes to, whatever it was stored as."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from infer.kernels.grouped import GroupedWeight, Scales
from infer.kernels.reference.grouped import dequantize_grouped

from ..cut import Cut


class QuantizedWeight(ABC):
    """A weight [out, in] in fewer bits than the model's dtype."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(out, in)"""

    @property
    def kind(self) -> object:
        """Equal for weights that can be stacked."""
        return type(self)

    @abstractmethod
    def dense(self) -> Tensor:
        """float32 [out, in]: exactly what the numbers mean."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> QuantizedWeight:
        """Output features [start, stop) of it."""

    @abstractmethod
    def reordered(self, order: Tensor) -> QuantizedWeight:
        """Output features in another order, int64 [out]."""

    def cut(self, cut: Cut) -> QuantizedWeight | Tensor:
        """A rank's part of it; a tensor where it cannot be cut as it is."""
        start, stop = cut.within(self.shape[cut.dim])
        if cut.dim == 0 and stop - start == cut.stop - cut.start:
            return self.rows(start, stop)
        return cut.of(self.dense())

    @classmethod
    def stacked(cls, parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
        """One weight of several with the same `kind`, one below the other."""
        raise NotImplementedError


#: Numbers of a quantized weight that become plain at a time, so that the float32 copy stays small beside the result.
_AT_A_TIME = 1 << 22


def as_tensor(value: Tensor | QuantizedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """A weight as it is if it is plain, else what it means, rounded to `dtype`."""
    if isinstance(value, Tensor):
        return value
    count, width = value.shape
    tensor = torch.empty(count, width, dtype=dtype)
    step = max(1, _AT_A_TIME // max(1, width))
    for start in range(0, count, step):
        tensor[start : start + step] = value.rows(start, min(start + step, count)).dense()
    return tensor


def between(start: int, stop: int, unit: int, width: int) -> bool:
    """True if features [start, stop) of `width` are whole groups of `unit` of them, or part of the only one."""
    return unit >= width or (start % unit == 0 and (stop % unit == 0 or stop == width))


def cut_of(value: Tensor | QuantizedWeight, cut: Cut) -> Tensor | QuantizedWeight:
    """A rank's part of a weight."""
    return value.cut(cut) if isinstance(value, QuantizedWeight) else cut.of(value)


@dataclass(frozen=True)
class Grouped(QuantizedWeight):
    """Small integers with scales by groups along the input features, as kernels take them."""

    weight: GroupedWeight
    columns: Tensor | None = None
    """int64 [in]: feature i of it is feature columns[i] of the layer's input; None: they are in order."""

    @classmethod
    def of(
        cls, codes: Tensor, bits: int, group_size: int, scale: Tensor, zero: Tensor | None = None, columns: Tensor | None = None
    ) -> Grouped:
        """(codes - zero) * scale of uint8 codes of 1 to 8 bits; `zero` uint8 [out, groups], or None for 2^(bits - 1)."""
        stored = 4 if bits <= 4 else 8
        if zero is None and bits != stored:
            zero = torch.full(scale.shape, 1 << (bits - 1), dtype=torch.uint8)
        return cls(GroupedWeight(codes, stored, group_size, Scales(scale), zero), columns)

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.codes.shape[0], self.weight.codes.shape[1]

    @property
    def kind(self) -> object:
        one = self.weight
        scales = [None if s is None else (s.values.dtype, s.factor is None, s.per_block) for s in (one.scale, one.minimum)]
        tables = [None if table is None else tuple(table.tolist()) for table in (self.columns, one.levels)]
        return Grouped, one.bits, one.group_size, one.zero is None, *scales, *tables

    def dense(self) -> Tensor:
        values = dequantize_grouped(self.weight)
        return values if self.columns is None else torch.empty_like(values).index_copy_(1, self.columns, values)

    def rows(self, start: int, stop: int) -> Grouped:
        return self._with(lambda part, _: part[start:stop])

    def reordered(self, order: Tensor) -> Grouped:
        return self._with(lambda part, _: part[order])

    def cut(self, cut: Cut) -> QuantizedWeight | Tensor:
        start, stop, width = cut.start, cut.stop, self.shape[1]
        scales = (self.weight.scale, self.weight.minimum)
        blocks = [one.per_block for one in scales if one is not None and one.factor is not None and one.factor.shape[1] > 1]
        unit = self.weight.group_size * max([1, *blocks])
        if cut.dim == 0 or self.columns is not None or stop > width or not between(start, stop, unit, width):
            return super().cut(cut)
        return self._with(lambda part, features: part[:, start // features : -(-stop // features)].contiguous())

    @classmethod
    def stacked(cls, parts: Sequence[QuantizedWeight]) -> Grouped:
        first, *others = (part for part in parts if isinstance(part, Grouped))
        below = [iter(tensors_of(other.weight)) for other in others]
        return first._with(lambda part, _: torch.cat([part, *(next(tensors) for tensors in below)]))

    def _with(self, of: Callable[[Tensor, int], Tensor]) -> Grouped:
        """The same of a part of each tensor, in the order of `tensors_of`; `of` takes it and the input features of one of its columns."""
        whole, size = self.weight, self.weight.group_size

        def scales(one: Scales) -> Scales:
            values = of(one.values, size)
            return one._replace(values=values, factor=None if one.factor is None else of(one.factor, size * one.per_block))

        codes, scale = of(whole.codes, 1), scales(whole.scale)
        zero = None if whole.zero is None else of(whole.zero, size)
        minimum = None if whole.minimum is None else scales(whole.minimum)
        return replace(self, weight=whole._replace(codes=codes, scale=scale, zero=zero, minimum=minimum))


def tensors_of(weight: GroupedWeight) -> Iterator[Tensor]:
    """Codes, scales, zeros and minimums: what has a row for each output feature."""
    for part in (weight.codes, *weight.scale[:2], weight.zero, *(() if weight.minimum is None else weight.minimum[:2])):
        if part is not None:
            yield part


@dataclass(frozen=True)
class Int8Rows(QuantizedWeight):
    """8-bit integers with one scale an output feature, for activations that are quantized too: values[o, i] * scale[o]."""

    values: Tensor
    """int8 [out, in]"""
    scale: Tensor
    """float32 [out]"""

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def dense(self) -> Tensor:
        return self.values.float() * self.scale[:, None]

    def rows(self, start: int, stop: int) -> Int8Rows:
        return Int8Rows(self.values[start:stop], self.scale[start:stop])

    def reordered(self, order: Tensor) -> Int8Rows:
        return Int8Rows(self.values[order], self.scale[order])

    def cut(self, cut: Cut) -> QuantizedWeight | Tensor:
        if cut.dim == 0 or cut.stop > self.shape[1]:
            return super().cut(cut)
        return Int8Rows(self.values[:, cut.start : cut.stop], self.scale)

    @classmethod
    def stacked(cls, parts: Sequence[QuantizedWeight]) -> Int8Rows:
        rows = [part for part in parts if isinstance(part, Int8Rows)]
        return Int8Rows(torch.cat([part.values for part in rows]), torch.cat([part.scale for part in rows]))


@dataclass(frozen=True)
class Floats(QuantizedWeight):
    """Floats of 8 bits, or others, by blocks: values[o, i] * scale[o // rows, i // columns]."""

    values: Tensor
    """[out, in], of any dtype that becomes float32 exactly."""
    scale: Tensor
    """float32 [ceil(out / block[0]), ceil(in / block[1])]"""
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def dense(self) -> Tensor:
        out_features, in_features = self.shape
        rows, columns = torch.arange(out_features) // self.block[0], torch.arange(in_features) // self.block[1]
        return self.values.float() * self.scale[rows][:, columns]

    @property
    def kind(self) -> object:
        return Floats, self.values.dtype, min(self.block[1], self.shape[1])

    def rows(self, start: int, stop: int) -> Floats:
        scale = self.scale[torch.arange(start, stop) // self.block[0]]
        return Floats(self.values[start:stop], scale, (1, self.block[1]))

    def reordered(self, order: Tensor) -> Floats:
        return Floats(self.values[order], self.scale[order // self.block[0]], (1, self.block[1]))

    @classmethod
    def stacked(cls, parts: Sequence[QuantizedWeight]) -> Floats:
        floats = [part for part in parts if isinstance(part, Floats)]
        (rows, _), *others = (part.block for part in floats)
        if any(block[0] != rows for block in others) or any(part.shape[0] % rows for part in floats[:-1]):
            floats = [part.rows(0, part.shape[0]) for part in floats]  # blocks would not begin where the parts do
        # Floats of 8 bits cannot be concatenated by every version of torch; their bytes can.
        values = torch.cat([part.values.view(torch.uint8) for part in floats]).view(floats[0].values.dtype)
        return Floats(values, torch.cat([part.scale for part in floats]), floats[0].block)

    def cut(self, cut: Cut) -> QuantizedWeight | Tensor:
        start, stop, size = cut.start, cut.stop, self.block[1]
        if cut.dim == 0 or stop > self.shape[1] or not between(start, stop, size, self.shape[1]):
            return super().cut(cut)
        return Floats(self.values[:, start:stop], self.scale[:, start // size : -(-stop // size)], self.block)
