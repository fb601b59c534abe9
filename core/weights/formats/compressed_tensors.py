"""compressed-tensors: what llm-compressor writes, of which a few formats are read. A scheme is chosen by names and by classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ..source import TensorInfo
from .base import FLOATS, Format, Layers, Stored, compiled, flag, names, whole

if TYPE_CHECKING:
    from torch import Tensor

    from .values import QuantizedWeight

#: Tensors of a quantized KV cache, which is not ours.
_KV_SCALES = (".k_scale", ".v_scale", ".q_scale", ".k_zero_point", ".v_zero_point")
_SUFFIXES = frozenset(
    {".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx", ".weight_global_scale"}
    | {".input_scale", ".input_zero_point", ".input_global_scale"}
)
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
        return Grouped(codes, self.bits, size, tensors[".weight_scale"], zero, columns=columns)


@dataclass(frozen=True)
class Int8(Format):
    """8-bit integers with one scale an output feature; activations are quantized token by token."""

    name = "compressed-tensors"
    main = ".weight"

    @property
    def label(self) -> str:
        return "W8A8"

    def optional(self) -> frozenset[str]:
        return frozenset({".input_scale", ".input_zero_point", ".weight_zero_point"})

    def size(self, main: TensorInfo) -> tuple[int, int]:
        if len(main.shape) != 2 or not all(main.shape) or main.dtype != "I8":
            raise self.shape_error(main)
        return main.shape[0], main.shape[1]

    def tensors(self, out_features: int, in_features: int) -> dict[str, Stored]:
        return {
            ".weight": Stored((out_features, in_features), frozenset({"I8"})),
            ".weight_scale": Stored((out_features, 1), FLOATS),
        }

    def decode(self, tensors: Mapping[str, Tensor], out_features: int, in_features: int) -> QuantizedWeight:
        from .values import Int8Rows

        return Int8Rows(tensors[".weight"], tensors[".weight_scale"].float().flatten())


def read(config: Mapping[str, Any]) -> Layers:
    """The quantization_config of `quant_method` compressed-tensors."""
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups or not all(isinstance(group, Mapping) for group in groups.values()):
        raise ModelError("config.json: quantization_config has no config_groups")
    if config.get("sparsity_config"):
        raise ModelError("quantized by compressed-tensors and sparse (sparsity_config), which is not supported")
    ignored = _matcher(names(config, "ignore"))
    rules = [(_matcher(names(group, "targets")), _format(group, group.get("format") or config.get("format"))) for group in groups.values()]

    def choose(layer: str) -> Format | None:
        return None if ignored(layer) else next((found for targets, found in rules if targets(layer)), None)

    label = ", ".join(dict.fromkeys(found.label for _, found in rules))
    return Layers("compressed-tensors", choose, _SUFFIXES, f"compressed-tensors, {label}", ignored=_KV_SCALES)


def _matcher(targets: tuple[str, ...]) -> Callable[[str], bool]:
    """Tells whether a layer is among these: a name, a pattern after "re:", or the class that all are of."""
    patterns = [compiled(target[3:]) for target in targets if target.startswith("re:")]
    return lambda layer: "Linear" in targets or layer in targets or any(pattern.match(layer) for pattern in patterns)


def _format(group: Mapping[str, Any], form: Any) -> Format:
    weights, activations = group.get("weights"), group.get("input_activations")
    if not isinstance(weights, Mapping) or not isinstance(activations, (Mapping, NoneType)):
        raise ModelError("config.json: quantization_config has a group without weights")
    kind, bits = weights.get("type", "int"), whole(weights, "num_bits", 8)
    strategy, symmetric = weights.get("strategy"), flag(weights, "symmetric", default=True)
    size = whole(weights, "group_size") if strategy == "group" else None
    by_row = strategy in ("group", "channel")
    if form == "pack-quantized" and kind == "int" and bits in (4, 8) and by_row and activations is None:
        ordered = weights.get("actorder") not in ("group", True)
        return Packed(bits, size, symmetric, ordered)
    if form == "int-quantized" and kind == "int" and bits == 8 and strategy == "channel" and symmetric and _is_int8(activations):
        return Int8()
    says = {"format": form, "type": kind, "num_bits": bits, "strategy": strategy, "symmetric": symmetric}
    told = ", ".join(f"{key} {value}" for key, value in says.items())
    raise ModelError(f"quantized by compressed-tensors with {told}, and {_told(activations)}, which is not supported")


def _is_int8(activations: Mapping[str, Any] | None) -> bool:
    """True for activations of 8-bit integers. Stated scales of theirs are not used: ours are each token's own, and no worse."""
    return activations is not None and activations.get("num_bits") == 8 and activations.get("type", "int") == "int"


def _told(activations: Mapping[str, Any] | None) -> str:
    return "activations as they are" if activations is None else f"activations of {activations.get('num_bits')} bits"
