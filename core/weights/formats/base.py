"""Format: the storage of one linear layer's weight in a quantized checkpoint, and the choice of one for each layer."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import ModelError
from ...spec.hf_values import MOST
from ..source import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

    from .values import QuantizedWeight

#: Dtypes of scales, as safetensors spells them.
FLOATS = frozenset({"F16", "BF16", "F32"})
#: Dtypes of plain weights.
PLAIN = FLOATS | {"F64"}
#: Floats of 8 bits that weights are stored as.
FLOATS_8 = frozenset({"F8_E4M3", "F8_E5M2"})
#: Dtypes of scales that are powers of two: exponents of 8 bits.
EXPONENTS = frozenset({"U8", "F8_E8M0"})
#: Ends of tensors of a quantized KV cache, which is not ours.
KV_SCALES = (".k_scale", ".v_scale", ".q_scale", ".k_zero_point", ".v_zero_point")
STATIC = "the checkpoint's scales of activations are not used: each token has its own, or activations stay in the model's dtype"


@dataclass(frozen=True, slots=True)
class Stored:
    """The shape that a tensor of a layer must have, or others for the same, and the dtypes that it may have."""

    shape: tuple[int, ...]
    dtypes: frozenset[str]
    or_shapes: tuple[tuple[int, ...], ...] = ()

    def fits(self, info: TensorInfo) -> bool:
        return info.dtype in self.dtypes and tuple(info.shape) in (self.shape, *self.or_shapes)

    def __str__(self) -> str:
        shapes = (self.shape, *self.or_shapes)
        return f"{' or '.join(sorted(self.dtypes))} {' or '.join(str(list(shape)) for shape in shapes)}"


class Format(ABC):
    """The storage of one layer's weight [out, in]: under the layer's name, a few tensors with suffixes of their own.

    It describes itself without torch; `decode` alone uses it.
    """

    name: ClassVar[str]
    """As it is called in messages."""
    main: ClassVar[str]
    """The suffix of the tensor that holds the values."""
    weight: ClassVar[str] = ".weight"
    """The suffix under which the weight is seen that the tensors say."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Bits and groups, for people."""

    def is_used(self, parts: Mapping[str, TensorInfo]) -> bool:
        """True if the layer with these tensors, by suffix, is stored so, and not plainly."""
        return self.main in parts and (self.main != ".weight" or parts[self.main].dtype not in PLAIN)

    def of(self, parts: Mapping[str, TensorInfo], read: Callable[[str], bytes]) -> Format:
        """The form of it that the layer with these tensors has.

        Args:
            parts: its tensors by suffix.
            read: the bytes of one, by suffix. For small ones.
        """
        return self

    @abstractmethod
    def size(self, main: TensorInfo) -> tuple[int, int]:
        """(out, in) of the layer whose values are in `main`. Raises ModelError for a shape that no layer has."""

    @abstractmethod
    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        """All that is there of such a layer, by suffix."""

    def group(self, in_features: int) -> int:
        """The input features that have a scale together: ranks can share a weight between them. 1: anywhere, or it then becomes plain."""
        return 1

    def optional(self) -> frozenset[str]:
        """Suffixes of `tensors` that need not be there, and of others that may be and are not read."""
        return frozenset()

    def zeros(self) -> frozenset[str]:
        """Suffixes of tensors that are not read and must be all zero, so that they say nothing."""
        return frozenset()

    @abstractmethod
    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        """The weight that these say, by suffix. Raises ModelError for values that no quantizer writes."""

    def shape_error(self, main: TensorInfo) -> ModelError:
        return ModelError(f"{main.file}: {main.name} of shape {list(main.shape)} is not a weight quantized by {self.name}")


@dataclass(frozen=True)
class Layers:
    """A checkpoint's quantization: the format of each of its linear layers."""

    method: str
    """config.json's `quant_method`."""
    choose: Callable[[str], Format | None]
    """From a layer's name to its format; None: stored plainly."""
    suffixes: frozenset[str]
    """Ends of names of tensors that belong to quantized layers, after the layer's name."""
    label: str = ""
    """The scheme for people: "gptq 4 bits, groups of 128"."""
    ignored: tuple[str, ...] = ()
    """Suffixes of tensors that are there for other uses and are left out, as scales of a quantized KV cache."""
    note: str = ""
    """A sentence on what of it is not done, for the log."""


def whole(config: Mapping[str, Any], key: str, default: Any = None, *, low: int = 1, among: Sequence[int] | None = None) -> int:
    """A whole number of quantization_config. Raises ModelError."""
    value = config.get(key, default)
    if type(value) is not int or not low <= value <= MOST or (among is not None and value not in among):
        wanted = f"one of {', '.join(map(str, among))}" if among is not None else f"a whole number from {low} on"
        raise ModelError(f"config.json: quantization_config.{key} is {value!r}, which must be {wanted}")
    return value


def flag(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """A boolean of quantization_config. Raises ModelError."""
    value = config.get(key, default)
    if type(value) is not bool:
        raise ModelError(f"config.json: quantization_config.{key} is {value!r}, which must be true or false")
    return value


def names(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of names of quantization_config, empty where there is none. Raises ModelError."""
    value = config.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ModelError(f"config.json: quantization_config.{key} is not a list of names: {value!r}")
    return tuple(value)


def compiled(pattern: str) -> re.Pattern[str]:
    """A regular expression of quantization_config. Raises ModelError for one that is none, or too long to trust."""
    if len(pattern) > 1000:
        raise ModelError(f"config.json: quantization_config has a pattern of {len(pattern)} characters")
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as e:
        raise ModelError(f"config.json: quantization_config has a pattern that is not a regular expression: {pattern!r} ({e})") from e
