"""FP8: floats of 8 bits with a scale for the whole weight, for each output feature or for each block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ..source import TensorInfo
from .base import EXPONENTS, FLOATS, FLOATS_8, KV_SCALES, STATIC, Format, Layers, Stored, names

if TYPE_CHECKING:
    from torch import Tensor

    from .values import QuantizedWeight

#: Names of the scales. The second is what a weight is multiplied by, as the first is.
_SCALES = (".weight_scale", ".weight_scale_inv")
SUFFIXES = frozenset({".weight", ".input_scale", ".activation_scale", *_SCALES})
#: The largest block that is read; usual are 128 by 128.
_MOST_BLOCK = 1 << 20


@dataclass(frozen=True)
class Fp8(Format):
    """
    Args:
        block: (output, input) features with the same scale; None: one scale for all, or one an output feature.
        exponents: scales are powers of two, and stored as exponents.
        scale: the suffix of the scales.
    """

    block: tuple[int, int] | None
    exponents: bool = False
    scale: str = ".weight_scale"

    name = "FP8"
    main = ".weight"

    @property
    def label(self) -> str:
        return "FP8" if self.block is None else f"FP8 in blocks of {self.block[0]}x{self.block[1]}"

    def of(self, parts: Mapping[str, TensorInfo], read: Callable[[str], bytes]) -> Format:
        return replace(self, scale=next((suffix for suffix in _SCALES if suffix in parts), self.scale))

    def size(self, main: TensorInfo) -> tuple[int, int]:
        if len(main.shape) != 2 or not all(main.shape) or main.dtype not in FLOATS_8:
            raise self.shape_error(main)
        return main.shape[0], main.shape[1]

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        shape: tuple[int, ...] = (out_features, 1)
        others: tuple[tuple[int, ...], ...] = ((out_features,), (), (1,), (1, 1))
        if self.block is not None:
            blocks = -(-out_features // self.block[0]), -(-in_features // self.block[1])
            shape, others = blocks, ((blocks[0], 1, blocks[1], 1),)
        return {
            ".weight": Stored((out_features, in_features), FLOATS_8),
            self.scale: Stored(shape, FLOATS | EXPONENTS if self.exponents else FLOATS, others),
        }

    def group(self, in_features: int) -> int:
        return 1 if self.block is None else self.block[1]

    def optional(self) -> frozenset[str]:
        return frozenset({".input_scale", ".activation_scale", ".input_zero_point"}) | self.zeros()

    def zeros(self) -> frozenset[str]:
        return frozenset({".weight_zero_point"})

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        from .coded import powers_of_two
        from .values import Floats

        values, scale = tensors[".weight"], tensors[self.scale]
        scale = (powers_of_two(scale) if scale.element_size() == 1 else scale).float()
        if self.block is not None:
            return Floats(values, scale.view(-(-out_features // self.block[0]), -1), self.block)
        return Floats(values, scale.reshape(-1, 1), (out_features if scale.numel() == 1 else 1, in_features))


def read(config: Mapping[str, Any]) -> Layers:
    """The quantization_config of `quant_method` fp8."""
    for key in ("modules_to_not_convert", "ignored_layers"):
        names(config, key)  # a layer's tensors tell whether it is quantized
    form = Fp8(block_of(config, "weight_block_size"), exponents=config.get("scale_fmt") == "ue8m0")
    note = STATIC if config.get("activation_scheme") == "static" else ""
    return Layers("fp8", lambda layer: form, SUFFIXES, f"fp8, {form.label}", ignored=KV_SCALES, note=note)


def block_of(config: Mapping[str, Any], key: str) -> tuple[int, int] | None:
    """The two sizes of a block in quantization_config; None: there is none. Raises ModelError."""
    block = config.get(key)
    if block is None:
        return None
    if not isinstance(block, list) or len(block) != 2 or not all(type(size) is int and 0 < size <= _MOST_BLOCK for size in block):
        raise ModelError(f"config.json: quantization_config.{key} is {block!r}, which must be two whole numbers from 1 on")
    return block[0], block[1]
