"""Rounded: plain weights that are made such as quantized checkpoints store, as they are loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..weights.cut import Cut
from ..weights.formats.values import cut_of
from ..weights.parameter import Parameter, Value
from .stored import Stored


class Rounded(Stored):
    """Arguments as of `Stored`. A rank's part of a weight is that of the whole one."""

    _cuts: Sequence[Cut] | None = None

    @abstractmethod
    def splits(self, cut: Cut, in_features: int) -> bool:
        """True if numbers that share a scale are of two ranks: the weight is then rounded whole."""

    @abstractmethod
    def rounded(self, weight: Tensor, device: torch.device) -> Value:
        """The weight in fewer bits; as it is where the backend could not multiply by that. `device`: the place it is to go to."""

    def declare(self, names: Sequence[str], outs: Sequence[int], in_features: int, cuts: Sequence[Cut] | None) -> list[Parameter]:
        self._cuts = None
        if cuts is not None and any(self.splits(cut, in_features) for cut in cuts):
            self._cuts, cuts = cuts, None
        matrices = [(f"{name}.weight", (out, in_features)) for name, out in zip(names, outs, strict=True)]
        return [Parameter(*matrices, cuts=cuts, take=self._round)]

    def store(self, weight: Tensor) -> None:
        self._round([weight], weight.device)

    def _round(self, values: list[Value], device: torch.device) -> None:
        found = []
        for value in values:
            assert isinstance(value, Tensor), "weights that are quantized already are refused before"
            found.append(self.rounded(value, device))
        if self._cuts is not None:
            found = [cut_of(value, cut) for value, cut in zip(found, self._cuts, strict=True)]
        self._take(found, device)
