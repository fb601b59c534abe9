"""MXFP4: floats of 4 bits with a power of two as scale for each 32 of a row. Of experts, as gpt-oss has them, and of linear layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..source import TensorInfo
from .base import EXPONENTS, Format, Layers, Stored, names

if TYPE_CHECKING:
    from torch import Tensor

    from .values import QuantizedWeight

GROUP_SIZE = 32
_BYTES = frozenset({"U8"})


@dataclass(frozen=True)
class Mxfp4(Format):
    """A linear layer's, as compressed-tensors stores it."""

    name = "MXFP4"
    main = ".weight_packed"

    @property
    def label(self) -> str:
        return "MXFP4"

    def size(self, main: TensorInfo) -> tuple[int, int]:
        if len(main.shape) != 2 or not all(main.shape) or main.shape[1] * 2 % GROUP_SIZE:
            raise self.shape_error(main)
        return main.shape[0], main.shape[1] * 2

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        return {
            ".weight_packed": Stored((out_features, in_features // 2), _BYTES),
            ".weight_scale": Stored((out_features, in_features // GROUP_SIZE), EXPONENTS),
        }

    def optional(self) -> frozenset[str]:
        return frozenset({".input_scale", ".input_global_scale"})

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        return weight(tensors[".weight_packed"], tensors[".weight_scale"])


@dataclass(frozen=True)
class Experts(Format):
    """The matrices of a layer's experts, seen as one with the rows of one expert below those of another.

    Args:
        experts: their number.
    """

    experts: int = 1

    name = "MXFP4"
    main = "_blocks"
    weight = ""

    @property
    def label(self) -> str:
        return "MXFP4"

    def of(self, parts: Mapping[str, TensorInfo], read: Callable[[str], bytes]) -> Format:
        return replace(self, experts=max(1, next(iter(parts[self.main].shape), 1)))

    def size(self, main: TensorInfo) -> tuple[int, int]:
        if len(main.shape) != 4 or not all(main.shape) or main.shape[3] * 2 != GROUP_SIZE:
            raise self.shape_error(main)
        experts, rows, groups, _ = main.shape
        return experts * rows, groups * GROUP_SIZE

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        groups = (self.experts, out_features // self.experts, in_features // GROUP_SIZE)
        return {"_blocks": Stored((*groups, GROUP_SIZE // 2), _BYTES), "_scales": Stored(groups, EXPONENTS)}

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        return weight(tensors["_blocks"].view(out_features, -1), tensors["_scales"].view(out_features, -1))


def weight(packed: Tensor, exponents: Tensor) -> QuantizedWeight:
    """The weight of bytes [out, in / 2] with two numbers in each, the first in the low bits, and exponents [out, in / 32]."""
    import torch

    from .coded import E2M1, Coded, powers_of_two

    return Coded(packed, torch.tensor(E2M1), powers_of_two(exponents), GROUP_SIZE)


def read(config: Mapping[str, Any]) -> Layers:
    """The quantization_config of `quant_method` mxfp4."""
    names(config, "modules_to_not_convert")  # a layer's tensors tell whether it is quantized
    form = Experts()
    return Layers("mxfp4", lambda layer: form, frozenset({"_blocks", "_scales"}), "mxfp4, experts in MXFP4")
