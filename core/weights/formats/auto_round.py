"""AutoRound: integers stored as GPTQ or AWQ stores them, each layer with bits and groups that it may have for itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...errors import ModelError
from .awq import Awq, group_size
from .base import Format, Layers, compiled, flag, whole
from .gptq import BITS, SUFFIXES, Gptq

#: What follows "auto_round:" in a packing_format, by what is stored: AWQ's words, or GPTQ's with zeros less one, or as they are.
_AWQ = frozenset({"auto_awq", "awq"})
_LESS_ONE = frozenset({"auto_gptq", "gptq"})
_AS_THEY_ARE = frozenset({"gptqmodel", "exllamav2", "triton", "tritonv2"})
#: A layer of more bits is not quantized.
_QUANTIZED_BITS = 8


def read(config: Mapping[str, Any]) -> Layers:
    """The quantization_config of `quant_method` auto-round."""
    if config.get("rotation_config"):
        raise ModelError("quantized by AutoRound with rotations (rotation_config), which is not supported")
    usual = _format(config, {})
    changes = config.get("extra_config") or {}
    if not isinstance(changes, Mapping) or not all(isinstance(one, Mapping) for one in changes.values()):
        raise ModelError(f"config.json: quantization_config.extra_config is not an object of objects: {changes!r}")
    layers = {name: _format(config, one) for name, one in changes.items()}
    patterns = [(pattern, form) for name, form in layers.items() if (pattern := _pattern(name)) is not None]

    def choose(layer: str) -> Format | None:
        if layer in layers:
            return layers[layer]
        return next((form for pattern, form in patterns if pattern.search(layer)), usual)

    assert usual is not None
    return Layers("auto-round", choose, SUFFIXES, f"auto-round, {usual.label}")


def _pattern(name: str) -> re.Pattern[str] | None:
    """The pattern that a key of extra_config is; None: it is the name of a layer, and stands for no other."""
    return None if re.fullmatch(r"[\w.]+", name) else compiled(name)


def _format(config: Mapping[str, Any], changes: Mapping[str, Any]) -> Gptq | Awq | None:
    merged = {**config, **changes}
    if changes and whole(merged, "bits") > _QUANTIZED_BITS:
        return None
    packing, kind, activations = (
        merged.get("packing_format") or "auto_round:auto_gptq",
        merged.get("data_type", "int"),
        merged.get("act_bits"),
    )
    base, *parts = packing.split(":") if isinstance(packing, str) else [""]
    known = _AWQ | _LESS_ONE | _AS_THEY_ARE
    integers = kind in ("int", None) and (activations is None or (isinstance(activations, int) and activations > _QUANTIZED_BITS))
    if (packing != "auto" and (base not in ("auto_round", "auto-round", "autoround") or not known.issuperset(parts))) or not integers:
        told = f"packing_format {packing!r}, data_type {kind!r} and act_bits {activations!r}"
        raise ModelError(f"quantized by AutoRound with {told}, which is not supported")
    size, symmetric = group_size(merged, "group_size"), flag(merged, "sym", default=True)
    if not _AWQ.isdisjoint(parts):
        whole(merged, "bits", among=(4,))
        return Awq(size, symmetric)
    less_one = packing == "auto" or not _LESS_ONE.isdisjoint(parts)
    return Gptq(whole(merged, "bits", among=BITS), size, ordered=True, zero_added=int(less_one))
