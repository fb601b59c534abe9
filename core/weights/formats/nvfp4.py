"""NVFP4: floats of 4 bits with an 8-bit float as scale for each 16 of a row, and one float32 scale for the whole weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..source import TensorInfo
from .base import Format, Stored

if TYPE_CHECKING:
    from torch import Tensor

    from .values import QuantizedWeight

GROUP_SIZE = 16
_BYTES = frozenset({"U8"})


@dataclass(frozen=True)
class Nvfp4(Format):
    """As compressed-tensors stores it: the scale of the whole weight divides the others."""

    name = "NVFP4"
    main = ".weight_packed"
    whole: ClassVar[str] = ".weight_global_scale"
    """The suffix of the scale of the whole weight."""

    @property
    def label(self) -> str:
        return "NVFP4"

    def size(self, main: TensorInfo) -> tuple[int, int]:
        if len(main.shape) != 2 or not all(main.shape) or main.shape[1] * 2 % GROUP_SIZE:
            raise self.shape_error(main)
        return main.shape[0], main.shape[1] * 2

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        return {
            self.main: Stored((out_features, in_features // 2), _BYTES),
            ".weight_scale": Stored((out_features, in_features // GROUP_SIZE), frozenset({"F8_E4M3"})),
            self.whole: Stored((1,), frozenset({"F32"}), ((),)),
        }

    def optional(self) -> frozenset[str]:
        return frozenset({".input_scale", ".input_global_scale"})

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        import torch

        from ...errors import ModelError
        from .coded import E2M1, Coded

        whole = tensors[self.whole].reshape(1)
        if float(whole) <= 0:
            raise ModelError(f"its {self.whole[1:]} is {float(whole)}")
        place = {"factor" if self.multiplies else "divisor": whole.expand(out_features).contiguous()}
        return Coded(tensors[self.main], torch.tensor(E2M1), tensors[".weight_scale"], GROUP_SIZE, **place)

    multiplies: ClassVar[bool] = False


@dataclass(frozen=True)
class ModelOptNvfp4(Nvfp4):
    """As ModelOpt stores it: the scale of the whole weight multiplies the others."""

    main = ".weight"
    whole = ".weight_scale_2"
    multiplies = True
