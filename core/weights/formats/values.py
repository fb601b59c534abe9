"""Quantized weights in memory: what a format decodes to, whatever it was stored as."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

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


def as_tensor(value: Tensor | QuantizedWeight) -> Tensor:
    """A weight as it is if it is plain, else what it means in float32."""
    return value.dense() if isinstance(value, QuantizedWeight) else value


def cut_of(value: Tensor | QuantizedWeight, cut: Cut) -> Tensor | QuantizedWeight:
    """A rank's part of a weight."""
    return value.cut(cut) if isinstance(value, QuantizedWeight) else cut.of(value)


@dataclass(frozen=True)
class Grouped(QuantizedWeight):
    """Small integers with scales by groups along the input features.

    Feature i of row o is (codes[o, i] - zero[o, g]) * scale[o, g] + minimum[o, g], g = i // group_size.
    """

    codes: Tensor
    """uint8 [out, in]"""
    bits: int
    """What a code takes at most."""
    group_size: int
    scale: Tensor
    """[out, groups], of any floating dtype."""
    zero: Tensor | None = None
    """uint8 [out, groups]; None: 2^(bits - 1)."""
    minimum: Tensor | None = None
    """[out, groups], of any floating dtype; None: 0."""
    columns: Tensor | None = None
    """int64 [in]: feature i of it is feature columns[i] of the layer's input; None: they are in order."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def kind(self) -> object:
        columns = None if self.columns is None else tuple(self.columns.tolist())
        return Grouped, self.bits, self.group_size, self.scale.dtype, self.zero is None, self.minimum is None, columns

    def dense(self) -> Tensor:
        groups = torch.arange(self.codes.shape[1]) // self.group_size
        centre: float | Tensor = 1 << (self.bits - 1)
        if self.zero is not None:
            centre = self.zero.float()[:, groups]
        values = (self.codes.float() - centre) * self.scale.float()[:, groups]
        if self.minimum is not None:
            values += self.minimum.float()[:, groups]
        if self.columns is None:
            return values
        return torch.empty_like(values).index_copy_(1, self.columns, values)

    def rows(self, start: int, stop: int) -> Grouped:
        return self._with(lambda part: part[start:stop], lambda part: part[start:stop])

    def cut(self, cut: Cut) -> QuantizedWeight | Tensor:
        start, stop, size = cut.start, cut.stop, self.group_size
        in_groups = start % size == 0 and (stop % size == 0 or stop == self.shape[1])
        if cut.dim == 0 or self.columns is not None or not in_groups or stop > self.shape[1]:
            return super().cut(cut)
        return self._with(lambda codes: codes[:, start:stop], lambda part: part[:, start // size : -(-stop // size)])

    @classmethod
    def stacked(cls, parts: Sequence[QuantizedWeight]) -> Grouped:
        first, *others = (part for part in parts if isinstance(part, Grouped))

        def stack(name: str) -> Tensor | None:
            return None if getattr(first, name) is None else torch.cat([getattr(part, name) for part in (first, *others)])

        codes, scale = stack("codes"), stack("scale")
        assert codes is not None
        assert scale is not None
        return replace(first, codes=codes, scale=scale, zero=stack("zero"), minimum=stack("minimum"))

    def _with(self, of_codes: Callable[[Tensor], Tensor], of_groups: Callable[[Tensor], Tensor]) -> Grouped:
        """The same of a part of the codes, and of what there is for each group."""
        zero = None if self.zero is None else of_groups(self.zero)
        minimum = None if self.minimum is None else of_groups(self.minimum)
        return replace(self, codes=of_codes(self.codes), scale=of_groups(self.scale), zero=zero, minimum=minimum)


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
    """Floats of 8 or 4 bits, by blocks: values[o, i] * scale[o // rows, i // columns]."""

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

    def rows(self, start: int, stop: int) -> QuantizedWeight:
        scale = self.scale[torch.arange(start, stop) // self.block[0]]
        return Floats(self.values[start:stop], scale, (1, self.block[1]))

    def cut(self, cut: Cut) -> QuantizedWeight | Tensor:
        start, stop, size = cut.start, cut.stop, self.block[1]
        in_blocks = start % size == 0 and (stop % size == 0 or stop == self.shape[1])
        if cut.dim == 0 or not in_blocks or stop > self.shape[1]:
            return super().cut(cut)
        return Floats(self.values[:, start:stop], self.scale[:, start // size : -(-stop // size)], self.block)
