"""MXFP4: floats of 4 bits with a power of two as scale for each 32 of a row. Of experts, as gpt-oss has them, and of linear layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..source import TensorInfo
from .base import EXPONENTS, Format, Layers, Stored, names
from .floats4 import BYTES, Floats4

if TYPE_CHECKING:
    from torch import Tensor

    from .coded import Coded
    from .values import QuantizedWeight

GROUP_SIZE = 32


@dataclass(frozen=True)
class Mxfp4(Floats4):
    """A linear layer's, as compressed-tensors stores it."""

    name = "MXFP4"
    main = ".weight_packed"
    group_size = GROUP_SIZE
    scales = EXPONENTS

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        coded = weight(tensors[self.main], tensors[".weight_scale"])
        return coded.in_groups() or coded


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
        return {"_blocks": Stored((*groups, GROUP_SIZE // 2), BYTES), "_scales": Stored(groups, EXPONENTS)}

    def group(self, in_features: int) -> int:
        return GROUP_SIZE

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        return weight(tensors["_blocks"].view(out_features, -1), tensors["_scales"].view(out_features, -1))


def weight(packed: Tensor, exponents: Tensor) -> Coded:
    """The weight of bytes [out, in / 2] with two numbers in each, the first in the low bits, and exponents [out, in / 32]."""
    import torch

    from .coded import E2M1, Coded, powers_of_two

    return Coded(packed, torch.tensor(E2M1), powers_of_two(exponents), GROUP_SIZE)


def read(config: Mapping[str, Any]) -> Layers:
    """The quantization_config of `quant_method` mxfp4."""
    names(config, "modules_to_not_convert")  # a layer's tensors tell whether it is quantized
    form = Experts()
    return Layers("mxfp4", lambda layer: form, frozenset({"_blocks", "_scales"}), "mxfp4, experts in MXFP4")
