"""config.json as a model's code reads it: overrides counted, values checked, transformers' defaults and precedence.

Every reader of config.json takes it from here, so that none believes what another one ignores. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from . import architectures
from .hf_values import check_kind, check_layers, check_values
from .rope import ALIASES, rope_of

FILE = "config.json"

#: Parameters of rotation that had keys of their own before transformers 5, and still may.
_ONCE_APART = ("rope_theta", "partial_rotary_factor")
#: All keys of rotation.
_ROTATION = frozenset({"rope_scaling", "rope_parameters", *_ONCE_APART})
#: Scalings that count from the length a model was trained with.
_FROM_ORIGINAL = ("llama3", "yarn", "longrope")


def effective(raw: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, path: Path | str = FILE) -> dict[str, Any]:
    """The content of a config.json, the same for every reader of it.

    Values are checked, and of a model_type that we have code for, absent keys have transformers' defaults and `rope_parameters`
    says all of rotation: `rope_scaling`, which goes before it as in transformers, and `rope_theta` are in it.

    Args:
        raw: the file's content.
        overrides: `hf_overrides`.
        path: the file, for messages.

    Raises:
        ModelError: a value is of the wrong kind or out of range. ConfigError: it is one of the overrides.
    """
    merged = apply_hf_overrides(raw, overrides)
    check_kind(merged, overrides or {}, path)
    ours = architectures.of(merged.get("model_type"))
    kinds = {} if ours is None else {**ours.values, **{other: ours.values[key] for other, key in ours.other_names.items()}}
    check_values(merged, kinds, overrides or {}, path)
    if ours is None or ours.old_names in merged:
        return merged
    found = {**ours.defaults, **merged}
    for other, key in ours.other_names.items():
        if other in merged and not (key in (overrides or {}) and other not in (overrides or {})):
            found[key] = merged[other]
    check_layers(found, path)
    if ours.theta is not None:
        found["rope_parameters"] = _rope_parameters(found, ours.theta, ours.partial, path)
        found.pop("rope_scaling", None)
        found.pop("partial_rotary_factor", None)
    return found


def apply_hf_overrides(hf_config: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of `hf_config` with `overrides` merged in, mappings within mappings.

    What the file says in another spelling, which transformers would read in place of an override, gives way to it.
    """
    overrides = overrides or {}
    merged = dict(hf_config)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = apply_hf_overrides(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    if "torch_dtype" in overrides and "dtype" not in overrides:
        merged.pop("dtype", None)
    if not overrides.keys().isdisjoint(_ROTATION):
        merged.update(_rotation(merged, hf_config, overrides))
    return merged


def _rotation(merged: Mapping[str, Any], file: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The objects of rotation with all overrides counted, in whichever of its spellings they are."""
    before = rope_of(file)
    apart = {key: before[key] for key in _ONCE_APART if key in before and key not in overrides}
    found = {key: merged[key] for key in ("rope_scaling", "rope_parameters") if key in merged}
    if "rope_scaling" in overrides:  # it was never the place of these
        found["rope_scaling"] = {**apart, **(found["rope_scaling"] or {})}
        if not overrides["rope_scaling"] and "rope_parameters" not in overrides:
            found |= {"rope_scaling": None, "rope_parameters": {**apart, "rope_type": "default"}}
    elif "rope_parameters" in overrides and found.get("rope_scaling"):
        found |= {"rope_scaling": None, "rope_parameters": {**before, **(overrides["rope_parameters"] or {})}}
    for place, value in found.items():
        if isinstance(value, Mapping):
            theirs = overrides.get(place) or {}
            found[place] = {key: one for key, one in value.items() if key not in _ONCE_APART or key in theirs or key not in overrides}
    return found


def _rope_parameters(config: Mapping[str, Any], theta: float, default: float | None, path: Path | str) -> dict[str, Any]:
    found = dict(rope_of(config))
    if nested := [key for key, value in found.items() if isinstance(value, Mapping)]:
        what = f"rope_parameters by kind of layer ({', '.join(nested)}) are not supported for {config['model_type']}"
        raise ModelError(f"{path}: {what}; try --model-impl transformers")
    found.setdefault("rope_theta", config.get("rope_theta", theta))
    if found["rope_theta"] is None:
        raise ModelError(f"{path}: rope_theta is null; it must be a number above 0")
    kind = found.get("rope_type", found.get("type", "default"))
    found["rope_type"] = ALIASES.get(kind, kind)
    partial = found.pop("partial_rotary_factor", config.get("partial_rotary_factor"))
    if default is not None:
        found["partial_rotary_factor"] = default if partial is None else partial
    elif found["rope_type"] != "default" and partial not in (None, 1):  # these models' code rotates whole heads
        what = f"partial_rotary_factor {partial} is not supported for {config['model_type']}"
        raise ModelError(f"{path}: {what}; try --model-impl transformers")
    if found["rope_type"] in _FROM_ORIGINAL:
        trained = config.get("original_max_position_embeddings") or found.get("original_max_position_embeddings")
        found["original_max_position_embeddings"] = trained or config["max_position_embeddings"]
    return found
