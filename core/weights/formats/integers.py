"""Integers as compressed-tensors stores them: packed into words, or one in a byte."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import ModelError
from ..source import TensorInfo
from .base import FLOATS, Format, Stored

if TYPE_CHECKING:
    from torch import Tensor

    from .values import QuantizedWeight

_INTEGERS = frozenset({"I32", "U32", "I64"})


@dataclass(frozen=True)
class Packed(Format):
    """Integers of 4 or 8 bits, packed along the input features; activations stay as they are.

    Args:
        bits: of a code.
        group_size: None: one scale an output feature.
        symmetric: without zeros.
        ordered: without `weight_g_idx`.
    """

    bits: int
    group_size: int | None
    symmetric: bool
    ordered: bool

    name = "compressed-tensors"
    main = ".weight_packed"

    @property
    def label(self) -> str:
        groups = "" if self.group_size is None else f" in groups of {self.group_size}"
        return f"W{self.bits}A16{groups}"

    def size(self, main: TensorInfo) -> tuple[int, int]:
        if len(main.shape) != 2 or not all(main.shape):
            raise self.shape_error(main)
        return main.shape[0], main.shape[1] * 32 // self.bits

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        groups = -(-in_features // (self.group_size or in_features))
        found = {
            ".weight_packed": Stored((out_features, -(-in_features * self.bits // 32)), _INTEGERS),
            ".weight_scale": Stored((out_features, groups), FLOATS),
            ".weight_shape": Stored((2,), _INTEGERS),
        }
        if not self.symmetric:
            found[".weight_zero_point"] = Stored((-(-out_features * self.bits // 32), groups), _INTEGERS)
        if not self.ordered:
            found[".weight_g_idx"] = Stored((in_features,), _INTEGERS)
        return found

    def group(self, in_features: int) -> int:
        return self.group_size if self.ordered and self.group_size else 1

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        import torch

        from .bits import unpack
        from .values import Grouped

        stated = tuple(tensors[".weight_shape"].tolist())
        if stated != (out_features, in_features):
            raise ModelError(f"a weight_shape says {list(stated)}, its weight_packed {[out_features, in_features]}")
        codes = unpack(tensors[".weight_packed"].view(torch.int32), self.bits, in_features)
        zero, columns = None, None
        size = self.group_size or in_features
        if not self.symmetric:
            # Stored with the same offset as the codes, so that the difference needs none.
            zero = unpack(tensors[".weight_zero_point"].view(torch.int32).t().contiguous(), self.bits, out_features).t().contiguous()
        if not self.ordered:
            index = tensors[".weight_g_idx"].long()
            columns = index.argsort(stable=True)
            if not torch.equal(index[columns], torch.arange(in_features) // size):
                raise ModelError("a weight_g_idx does not fill the groups")
            codes = codes[:, columns]
        return Grouped.of(codes, self.bits, size, tensors[".weight_scale"], zero, columns)


@dataclass(frozen=True)
class Int8(Format):
    """Integers, one in a byte.

    Args:
        bits: that an integer takes at most.
        group_size: input features with the same scale; 0: one scale an output feature; None: one for all.
        symmetric: without zeros.
        with_activations: activations are quantized too, token by token.
    """

    bits: int
    group_size: int | None
    symmetric: bool
    with_activations: bool

    name = "compressed-tensors"
    main = ".weight"

    @property
    def label(self) -> str:
        groups = f" in groups of {self.group_size}" if self.group_size else ""
        return f"W{self.bits}A{8 if self.with_activations else 16}{groups}"

    def group(self, in_features: int) -> int:
        return self.group_size or 1

    def optional(self) -> frozenset[str]:
        return frozenset({".input_scale", ".input_zero_point"}) | self.zeros()

    def zeros(self) -> frozenset[str]:
        return frozenset({".weight_zero_point"} if self.symmetric else ())

    def size(self, main: TensorInfo) -> tuple[int, int]:
        if len(main.shape) != 2 or not all(main.shape) or main.dtype != "I8":
            raise self.shape_error(main)
        return main.shape[0], main.shape[1]

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        shape: tuple[int, ...] = (1,)
        others: tuple[tuple[int, ...], ...] = ((), (1, 1))
        if self.group_size is not None:
            shape, others = (out_features, -(-in_features // (self.group_size or in_features))), ()
        found = {
            ".weight": Stored((out_features, in_features), frozenset({"I8"})),
            ".weight_scale": Stored(shape, FLOATS, others),
        }
        if not self.symmetric:
            found[".weight_zero_point"] = Stored(shape, frozenset({"I8"}), others)
        return found

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        import torch

        from .values import Grouped, Int8Rows

        def by_row(tensor: Tensor) -> Tensor:
            return tensor.reshape(1, 1).expand(out_features, 1).contiguous() if tensor.numel() == 1 else tensor

        scale = by_row(tensors[".weight_scale"])
        if self.with_activations and self.symmetric and not self.group_size:
            return Int8Rows(tensors[".weight"], scale.float().flatten())
        zero = None if self.symmetric else by_row(tensors[".weight_zero_point"]).view(torch.uint8) ^ 128
        return Grouped.of(tensors[".weight"].view(torch.uint8) ^ 128, 8, self.group_size or in_features, scale, zero)
