"""AWQ: integers of 4 bits packed along the output features, in an order of their own, with scales and zeros by groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ..source import TensorInfo
from .base import FLOATS, Format, Layers, Stored, flag, names, whole

if TYPE_CHECKING:
    from torch import Tensor

    from .values import QuantizedWeight

SUFFIXES = frozenset({".qweight", ".qzeros", ".scales"})
#: The output feature, of eight that follow each other, that is in each four bits of a word, low bits first.
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_INTEGERS = frozenset({"I32", "U32"})


@dataclass(frozen=True)
class Awq(Format):
    """
    Args:
        group_size: input features with the same scale; None: all.
        symmetric: zeros need not be there.
    """

    group_size: int | None
    symmetric: bool

    name = "AWQ"
    main = ".qweight"

    @property
    def label(self) -> str:
        return "4 bits, " + ("whole columns" if self.group_size is None else f"groups of {self.group_size}")

    def size(self, main: TensorInfo) -> tuple[int, int]:
        if len(main.shape) != 2 or not all(main.shape) or main.shape[0] % (self.group_size or 1):
            raise self.shape_error(main)
        return main.shape[1] * 8, main.shape[0]

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        groups = in_features // (self.group_size or in_features)
        return {
            ".qweight": Stored((in_features, out_features // 8), _INTEGERS),
            ".qzeros": Stored((groups, out_features // 8), _INTEGERS),
            ".scales": Stored((groups, out_features), FLOATS),
        }

    def group(self, in_features: int) -> int:
        return self.group_size or 1

    def optional(self) -> frozenset[str]:
        return frozenset({".qzeros"}) if self.symmetric else frozenset()

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        from .values import Grouped

        zeros = tensors.get(".qzeros")
        zero = None if zeros is None else _unpack(zeros)
        scale = tensors[".scales"].t().contiguous()
        return Grouped.of(_unpack(tensors[".qweight"]), 4, self.group_size or in_features, scale, zero)


def _unpack(words: Tensor) -> Tensor:
    """uint8 [columns * 8, rows] of int32 [rows, columns]."""
    import torch

    words = words.view(torch.int32).t()
    columns, rows = words.shape
    codes = torch.empty(columns, 8, rows, dtype=torch.uint8)
    for place, feature in enumerate(_ORDER):
        codes[:, feature] = ((words >> (4 * place)) & 15).to(torch.uint8)
    return codes.view(-1, rows)


def read(config: Mapping[str, Any]) -> Layers:
    """The quantization_config of `quant_method` awq."""
    version = next((found for key in ("version", "format", "checkpoint_format") if (found := config.get(key))), "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise ModelError(f"quantized by AWQ in the version {version!r}, which is not supported (known: gemm)")
    whole(config, "w_bit" if "w_bit" in config else "bits", 4, among=(4,))
    names(config, "modules_to_not_convert")  # a layer's tensors tell whether it is quantized: these are parts of names, and match others
    form = Awq(
        group_size(config, "q_group_size" if "q_group_size" in config else "group_size"), not flag(config, "zero_point", default=True)
    )
    return Layers("awq", lambda layer: form, SUFFIXES, f"awq, {form.label}")


def group_size(config: Mapping[str, Any], key: str) -> int | None:
    """Features with the same scale; None (-1 in the file): all. Raises ModelError."""
    size = whole(config, key, 128, low=-1)
    if not size:
        raise ModelError(f"config.json: quantization_config.{key} is 0")
    return None if size < 0 else size
