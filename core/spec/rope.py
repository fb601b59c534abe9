"""Rotation of queries and keys as config.json describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError, nearest

#: Kinds of scaling that we have, see layers/rope.py.
KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeConfig:
    """`rotary_dim` features of a head are rotated; `scaling` is config.json's rope_scaling without its type."""

    rotary_dim: int
    theta: float
    kind: str
    scaling: Mapping[str, Any]
    max_position: int

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], head_dim: int) -> RopeConfig:
        """Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before). Raises ModelError."""
        scaling = dict(rope_of(hf))
        kind = scaling.pop("rope_type", scaling.pop("type", "default"))
        theta = scaling.pop("rope_theta", None) or hf.get("rope_theta") or 10000.0
        partial = scaling.pop("partial_rotary_factor", None) or hf.get("partial_rotary_factor") or 1.0
        if kind not in KINDS:
            raise ModelError(f"rope scaling {kind!r} is not supported (known: {', '.join(KINDS)}){nearest(kind, KINDS)}")
        return cls(int(head_dim * partial), float(theta), kind, scaling, int(hf.get("max_position_embeddings") or 2048))


def rope_of(hf_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of rotation as config.json has them: `rope_scaling` first, as in transformers."""
    return hf_config.get("rope_scaling") or hf_config.get("rope_parameters") or {}
