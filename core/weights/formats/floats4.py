"""Linear layers of 4-bit floats, two in a byte, with a scale for each group of a row."""

from __future__ import annotations

from typing import ClassVar

from ..source import TensorInfo
from .base import Format, Stored

BYTES = frozenset({"U8"})


class Floats4(Format):
    """What such formats have in common."""

    group_size: ClassVar[int]
    """Input features that share a scale."""
    scales: ClassVar[frozenset[str]]
    """Dtypes of the scales."""

    @property
    def label(self) -> str:
        return self.name

    def size(self, main: TensorInfo) -> tuple[int, int]:
        if len(main.shape) != 2 or not all(main.shape) or main.shape[1] * 2 % self.group_size:
            raise self.shape_error(main)
        return main.shape[0], main.shape[1] * 2

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        return {
            self.main: Stored((out_features, in_features // 2), BYTES),
            ".weight_scale": Stored((out_features, in_features // self.group_size), self.scales),
        }

    def group(self, in_features: int) -> int:
        return self.group_size

    def optional(self) -> frozenset[str]:
        return frozenset({".input_scale", ".input_global_scale"})
