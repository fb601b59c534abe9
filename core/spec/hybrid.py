"""What models with states say of their layers in config.json, in the spellings that there are. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import ModelError
from .hf_values import LARGEST, Kind

#: Kinds of layers, in layer_types and layers_block_type.
MAMBA, ATTENTION = "mamba", "attention"
#: As newer files call them.
_SPELLINGS = {"linear_attention": MAMBA, "full_attention": ATTENTION}
#: Infinity, as transformers writes it.
_INFINITY = {"__float__": "Infinity"}


def _is_time(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value == _INFINITY or (number and (0 <= value <= LARGEST or value == math.inf))


#: The absent key.
ALL_TIMES = (0.0, math.inf)
TIMES = Kind(
    "two numbers from 0 to infinity", lambda value: isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_time, value))
)


def times_of(limit: Sequence[Any] | None) -> tuple[float, float]:
    """The least and the greatest time, of `time_step_limit`."""
    low, high = (math.inf if one == _INFINITY else float(one) for one in limit or ALL_TIMES)
    return low, high


def kinds_of_layers(kinds: Sequence[str], *others: str) -> list[str]:
    """MAMBA or ATTENTION for each layer, or one of `others`. Raises ModelError for one that is none of these."""
    found = [_SPELLINGS.get(kind, kind) for kind in kinds]
    known = (MAMBA, ATTENTION, *others)
    if unknown := sorted(set(found) - set(known)):
        raise ModelError(f"config.json: layers of {', '.join(unknown)} are not supported here (known: {', '.join((*known, *_SPELLINGS))})")
    return found


def silu_only(activation: str) -> None:
    """Raises ModelError for an activation that Mamba's kernels do not have."""
    if activation not in ("silu", "swish"):
        raise ModelError(f"config.json: activation {activation!r} of Mamba layers is not supported (known: silu)")


def rank_of(given: int | str, hidden_size: int) -> int:
    """Numbers that times are made of, where "auto" is a sixteenth of the model's features."""
    return -(-hidden_size // 16) if isinstance(given, str) else given
