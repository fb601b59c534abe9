"""bitsandbytes: 4-bit codes of 16 numbers (nf4, fp4) with scales by blocks, which may be quantized too, and 8-bit integers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ..source import TensorInfo
from .base import FLOATS, PLAIN, Format, Layers, Stored, flag, names

if TYPE_CHECKING:
    from torch import Tensor

    from .values import QuantizedWeight

_BYTES = frozenset({"U8"})
_STATE = ".weight.quant_state.bitsandbytes__"
_TYPES = ("nf4", "fp4")
#: Codes are looked at as bytes, whatever dtype they are kept in.
_STORAGE = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4, "F64": 8}
_SUFFIXES_4 = frozenset({".weight", ".weight.absmax", ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map"})
_SUFFIXES_8 = frozenset({".weight", ".SCB", ".weight_format"})
#: What a state may take at most; one is about 150 bytes.
_MOST_STATE = 10_000
_MOST_BLOCK = 1 << 16
#: Scales are about as large as weights are.
_MOST_OFFSET = 1e9


@dataclass(frozen=True)
class Bits4(Format):
    """Codes of a layer before its state is read, which says all else."""

    name = "bitsandbytes"
    main = ".weight"

    @property
    def label(self) -> str:
        return "4 bits"

    def is_used(self, parts: Mapping[str, TensorInfo]) -> bool:
        # The codes may be kept in a dtype of plain weights.
        beside = any(suffix.startswith(".weight.") for suffix in parts)
        return self.main in parts and (beside or parts[self.main].dtype not in PLAIN)

    def of(self, parts: Mapping[str, TensorInfo], read: Callable[[str], bytes]) -> Format:
        found = [suffix for suffix in parts if suffix.startswith(_STATE)]
        if len(found) != 1 or found[0].removeprefix(_STATE) not in _TYPES:
            where = parts[self.main]
            raise ModelError(
                f"{where.file}: {where.name} is quantized by bitsandbytes, but has {len(found)} states ({_STATE[1:]}nf4 or fp4)"
            )
        info = parts[found[0]]
        if info.dtype != "U8" or len(info.shape) != 1 or info.shape[0] > _MOST_STATE:
            raise ModelError(f"{info.file}: {info.name} is {info.dtype} {list(info.shape)}, which is not a state of bitsandbytes")
        dtype = parts[self.main].dtype
        state, kind = _parsed(read(found[0]), info), found[0].removeprefix(_STATE)
        return Coded4(state, kind, per_item=_STORAGE.get(dtype, 1), dtypes=frozenset({dtype} & _STORAGE.keys()))

    def size(self, main: TensorInfo) -> tuple[int, int]:
        raise AssertionError("its state says it")

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        raise AssertionError("its state says it")

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        raise AssertionError("its state says it")


@dataclass(frozen=True)
class _State:
    """The JSON in a tensor beside a layer's codes.

    Args:
        shape: (out, in)
        block: weights that follow each other, row after row, with the same scale.
        nested: scales with the same scale; None: they are not quantized.
        offset: added to quantized scales.
    """

    shape: tuple[int, int]
    block: int
    nested: int | None
    offset: float


def _parsed(content: bytes, info: TensorInfo) -> _State:
    """Raises ModelError for a state that no weight has."""
    try:
        state = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{info.file}: {info.name} is not JSON ({e}); fetch the model again") from e
    match state:
        case {"shape": [int(rows), int(columns)], "blocksize": int(block)}:
            nested, offset = state.get("nested_blocksize"), state.get("nested_offset", 0)
            blocks = _is_block(block) and (nested is None or _is_block(nested))
            number = isinstance(offset, (int, float)) and abs(offset) < _MOST_OFFSET  # False for NaN too
            if rows > 0 and columns > 0 and not columns % 2 and blocks and number:
                return _State((rows, columns), block, nested, float(offset))
    raise ModelError(f"{info.file}: {info.name} says {content[:300].decode(errors='replace')}, which no weight has")


def _is_block(size: Any) -> bool:
    return type(size) is int and 1 < size <= _MOST_BLOCK and not size % 2


@dataclass(frozen=True)
class Coded4(Format):
    """Codes of nf4 or fp4.

    Args:
        kind: nf4 or fp4.
        per_item: bytes of an item of the tensor that holds the codes.
        dtypes: of that tensor.
    """

    state: _State
    kind: str
    per_item: int
    dtypes: frozenset[str]

    name = "bitsandbytes"
    main = ".weight"

    @property
    def label(self) -> str:
        return f"{self.kind} in blocks of {self.state.block}"

    def size(self, main: TensorInfo) -> tuple[int, int]:
        return self.state.shape

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        count = out_features * in_features
        blocks, items = -(-count // self.state.block), count // 2 // self.per_item
        found = {
            ".weight": Stored((items, 1), self.dtypes, ((1, items),)),
            ".weight.absmax": Stored((blocks,), FLOATS if self.state.nested is None else _BYTES),
            ".weight.quant_map": Stored((16,), FLOATS),
        }
        if self.state.nested is not None:
            found[".weight.nested_absmax"] = Stored((-(-blocks // self.state.nested),), FLOATS)
            found[".weight.nested_quant_map"] = Stored((256,), FLOATS)
        return found

    def group(self, in_features: int) -> int:
        return math.gcd(in_features, self.state.block)  # blocks may go on in the next row

    def optional(self) -> frozenset[str]:
        return frozenset({_STATE + self.kind})

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        import torch

        from .coded import Coded

        packed = tensors[".weight"].flatten().view(torch.uint8).view(out_features, -1)
        absmax = tensors[".weight.absmax"]
        if self.state.nested is not None:
            scale = tensors[".weight.nested_absmax"].float()[torch.arange(len(absmax)) // self.state.nested]
            absmax = tensors[".weight.nested_quant_map"].float()[absmax.int()] * scale + self.state.offset
        size = self.group(in_features)
        scale = absmax.float()[torch.arange(0, out_features * in_features, size) // self.state.block].view(out_features, -1)
        return Coded((packed << 4) | (packed >> 4), tensors[".weight.quant_map"].float(), scale, size)


@dataclass(frozen=True)
class Bits8(Format):
    """Integers of 8 bits with the largest magnitude of each row; activations have outliers that stay as they are."""

    name = "bitsandbytes"
    main = ".weight"

    @property
    def label(self) -> str:
        return "8 bits"

    def size(self, main: TensorInfo) -> tuple[int, int]:
        if len(main.shape) != 2 or not all(main.shape) or main.dtype != "I8":
            raise self.shape_error(main)
        return main.shape[0], main.shape[1]

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        return {
            ".weight": Stored((out_features, in_features), frozenset({"I8"})),
            ".SCB": Stored((out_features,), FLOATS),
            ".weight_format": Stored((), _BYTES, ((1,),)),
        }

    def optional(self) -> frozenset[str]:
        return frozenset({".weight_format"})

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        import torch

        from .values import Grouped

        order = tensors.get(".weight_format")
        if order is not None and int(order):
            raise ModelError("its values are not in rows (weight_format); save it again with a later bitsandbytes")
        codes = tensors[".weight"].view(torch.uint8) ^ 128
        return Grouped.of(codes, 8, in_features, (tensors[".SCB"].float() / 127)[:, None])


def read(config: Mapping[str, Any]) -> Layers:
    """The quantization_config of `quant_method` bitsandbytes."""
    four, eight = (flag(config, key, config.get(f"_{key}") is True) for key in ("load_in_4bit", "load_in_8bit"))
    if four == eight:
        raise ModelError(f"config.json: quantization_config has load_in_4bit {four} and load_in_8bit {eight}; one must be true")
    names(config, "llm_int8_skip_modules")  # a layer's tensors tell whether it is quantized
    form: Format = Bits4() if four else Bits8()
    suffixes = _SUFFIXES_4 | {_STATE + kind for kind in _TYPES} if four else _SUFFIXES_8
    label = f"{config.get('bnb_4bit_quant_type', 'fp4')}" if four else "int8"
    return Layers("bitsandbytes", lambda layer: form, suffixes, f"bitsandbytes, {label}")
