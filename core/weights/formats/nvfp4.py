"""NVFP4: floats of 4 bits with an 8-bit float as scale for each 16 of a row, and one float32 scale for the whole weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Stored
from .floats4 import Floats4

if TYPE_CHECKING:
    from torch import Tensor

    from .values import QuantizedWeight


@dataclass(frozen=True)
class Nvfp4(Floats4):
    """As compressed-tensors stores it: the scale of the whole weight divides the others."""

    name = "NVFP4"
    main = ".weight_packed"
    group_size = 16
    scales = frozenset({"F8_E4M3"})
    whole: ClassVar[str] = ".weight_global_scale"
    """The suffix of the scale of the whole weight."""
    multiplies: ClassVar[bool] = False

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        return super().tensors(out_features, in_features) | {self.whole: Stored((1,), frozenset({"F32"}), ((),))}

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        import torch

        from ...errors import ModelError
        from .coded import E2M1, Coded

        whole = tensors[self.whole].reshape(1)
        if float(whole) <= 0:
            raise ModelError(f"its {self.whole[1:]} is {float(whole)}")
        place = {"factor" if self.multiplies else "divisor": whole.expand(out_features).contiguous()}
        coded = Coded(tensors[self.main], torch.tensor(E2M1), tensors[".weight_scale"], self.group_size, **place)
        return coded.in_groups() or coded


@dataclass(frozen=True)
class ModelOptNvfp4(Nvfp4):
    """As ModelOpt stores it: the scale of the whole weight multiplies the others."""

    main = ".weight"
    whole = ".weight_scale_2"
    multiplies = True
