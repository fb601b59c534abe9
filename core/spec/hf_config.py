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
from .rope import rope_of

FILE = "config.json"

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
    check_values(merged, ours.values if ours is not None else {}, overrides or {}, path)
    if ours is None or ours.old_names in merged:
        return merged
    found = {**ours.defaults, **merged}
    check_layers(found, path)
    if ours.theta is not None:
        found["rope_parameters"] = _rope_parameters(found, ours.theta, path)
        found.pop("rope_scaling", None)
        found.pop("partial_rotary_factor", None)
    return found


def apply_hf_overrides(hf_config: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of `hf_config` with `overrides` merged in, mappings within mappings."""
    merged = dict(hf_config)
    for key, value in (overrides or {}).items():
        old = merged.get(key)
        merged[key] = apply_hf_overrides(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _rope_parameters(config: Mapping[str, Any], theta: float, path: Path | str) -> dict[str, Any]:
    found = dict(rope_of(config))
    if nested := [key for key, value in found.items() if isinstance(value, Mapping)]:
        raise ModelError(f"{path}: rope_parameters by kind of layer ({', '.join(nested)}) are not supported for {config['model_type']}")
    found.setdefault("rope_theta", config.get("rope_theta", theta))
    if found["rope_theta"] is None:
        raise ModelError(f"{path}: rope_theta is null; it must be a number above 0")
    found["rope_type"] = found.get("rope_type", found.get("type", "default"))
    partial = found.pop("partial_rotary_factor", config.get("partial_rotary_factor"))
    if found["rope_type"] != "default" and partial not in (None, 1):  # these models' code rotates whole heads
        raise ModelError(f"{path}: partial_rotary_factor {partial} is not supported for {config['model_type']}")
    if found["rope_type"] in _FROM_ORIGINAL:
        trained = config.get("original_max_position_embeddings") or found.get("original_max_position_embeddings")
        found["original_max_position_embeddings"] = trained or config["max_position_embeddings"]
    return found
