"""compressed-tensors: what llm-compressor writes. A layer's form is chosen by names and by classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

from ...errors import ModelError
from .base import KV_SCALES, STATIC, Format, Layers, compiled, flag, names, whole
from .fp8 import Fp8, block_of
from .integers import Int8, Packed
from .mxfp4 import Mxfp4
from .nvfp4 import Nvfp4

_SUFFIXES = frozenset(
    {".weight", ".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx", ".weight_global_scale"}
    | {".input_scale", ".input_zero_point", ".input_global_scale"}
)
#: Forms whose weights are of the one kind or of the other, as their groups say.
_UNPACKED = ("int-quantized", "float-quantized", "naive-quantized")


@dataclass(frozen=True)
class _Targets:
    """Layers that config_groups or ignore names."""

    names: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    def match(self, layer: str) -> tuple[bool, bool, bool]:
        """True for a layer of this name, for one that a pattern fits, and for one of the class that all are of."""
        return layer in self.names, any(pattern.match(layer) for pattern in self.patterns), "Linear" in self.names


def read(config: Mapping[str, Any]) -> Layers:
    """The quantization_config of `quant_method` compressed-tensors."""
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not groups or not all(isinstance(group, Mapping) for group in groups.values()):
        raise ModelError("config.json: quantization_config has no config_groups")
    for key, what in (("sparsity_config", "sparse"), ("transform_config", "with transforms")):
        found = config.get(key)
        if found and found != {"config_groups": {}}:
            raise ModelError(f"quantized by compressed-tensors and {what} ({key}), which is not supported")
    ignored = _targets(names(config, "ignore"))
    rules = [(_targets(names(group, "targets")), _format(group, group.get("format") or config.get("format"))) for group in groups.values()]

    def choose(layer: str) -> Format | None:
        if any(ignored.match(layer)):
            return None
        # A name goes before a pattern, and that before the class.
        return next((form for how in range(3) for targets, form in rules if targets.match(layer)[how]), None)

    label = ", ".join(dict.fromkeys(form.label for _, form in rules))
    note = STATIC if any(_is_static(group.get("input_activations")) for group in groups.values()) else ""
    return Layers("compressed-tensors", choose, _SUFFIXES, f"compressed-tensors, {label}", ignored=KV_SCALES, note=note)


def _targets(targets: tuple[str, ...]) -> _Targets:
    patterns = tuple(compiled(target[3:]) for target in targets if target.startswith("re:"))
    return _Targets(frozenset(target for target in targets if not target.startswith("re:")), patterns)


def _format(group: Mapping[str, Any], form: Any) -> Format:
    """The form of the layers of one of config_groups. Raises ModelError."""
    weights, activations = group.get("weights"), group.get("input_activations")
    if not isinstance(weights, Mapping) or not isinstance(activations, (Mapping, NoneType)):
        raise ModelError("config.json: quantization_config has a group without weights")
    kind, bits, symmetric = weights.get("type", "int"), whole(weights, "num_bits", 8), flag(weights, "symmetric", default=True)
    strategy, size = _strategy(weights)
    is_float = kind == "float" and symmetric
    if form == "pack-quantized" and kind == "int" and bits in (4, 8) and strategy in ("group", "channel"):
        return Packed(bits, size, symmetric, ordered=weights.get("actorder") not in ("group", "dynamic", True))
    if form in _UNPACKED and kind == "int" and bits in (4, 8) and strategy in ("group", "channel", "tensor"):
        whole_row = None if strategy == "tensor" else 0
        return Int8(bits, size or whole_row, symmetric, with_activations=_is_int8(activations))
    if form in _UNPACKED and is_float and bits == 8 and strategy in ("group", "block", "channel", "tensor"):
        return Fp8(_block(weights) if strategy == "block" else (1, size) if size else None)
    if form == "mxfp8-quantized" and is_float and bits == 8 and size:
        return Fp8((1, size), exponents=True)
    if form == "nvfp4-pack-quantized" and is_float and bits == 4 and size == 16:
        return Nvfp4()
    if form == "mxfp4-pack-quantized" and is_float and bits == 4 and size == 32:
        return Mxfp4()
    says = {"format": form, "type": kind, "num_bits": bits, "strategy": strategy, "group_size": size, "symmetric": symmetric}
    told = ", ".join(f"{key} {value}" for key, value in says.items())
    raise ModelError(f"quantized by compressed-tensors with {told}, which is not supported")


def _strategy(weights: Mapping[str, Any]) -> tuple[str, int | None]:
    """The strategy, and the size of groups if it has some. Raises ModelError."""
    stated = weights.get("group_size")
    strategy = weights.get("strategy") or ("tensor" if stated is None else "channel" if stated == -1 else "group")
    if strategy == "group" and stated == -1:
        strategy = "channel"
    return str(strategy), whole(weights, "group_size") if strategy in ("group", "tensor_group") else None


def _block(weights: Mapping[str, Any]) -> tuple[int, int]:
    """The sizes of a block, which older files spell "128x128". Raises ModelError."""
    found = weights.get("block_structure")
    if isinstance(found, str) and re.fullmatch(r"\d{1,9}x\d{1,9}", found):
        found = [int(size) for size in found.split("x")]
    block = block_of({"block_structure": found}, "block_structure")
    if block is None:
        raise ModelError("config.json: quantization_config has a strategy of blocks without block_structure")
    return block


def _is_int8(activations: Mapping[str, Any] | None) -> bool:
    return activations is not None and activations.get("num_bits") == 8 and activations.get("type", "int") == "int"


def _is_static(activations: Mapping[str, Any] | None) -> bool:
    """True for activations whose scales are in the checkpoint."""
    return activations is not None and activations.get("dynamic", False) is not True
