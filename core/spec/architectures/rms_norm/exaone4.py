"""EXAONE 4: norms of queries and keys and behind the parts; in models with windows, layers that see everything have no rotation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, FULL, SLIDING, VALUES, decoder, qk_norm, windows_of, without
from ...hf_values import NULL, TEXT, WHOLE
from ...stack import StackSpec
from .. import Architecture
from .olmo2 import BEHIND

EXAONE4_DEFAULTS = without(DEFAULTS, "head_dim") | {
    "vocab_size": 102400,
    "intermediate_size": 16384,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
}
MORE_VALUES = {"sliding_window_pattern": WHOLE | TEXT | NULL}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    count, window = hf["num_hidden_layers"], hf["sliding_window"]
    kinds = hf.get("layer_types") or ([FULL] * count if window is None else _pattern(hf["sliding_window_pattern"], count))
    still = [{} if kind == SLIDING or window is None else {"rope": None} for kind in kinds]
    return decoder(hf, attention={"qk_norm": qk_norm(hf)}, windows=windows_of(kinds, window), by_layer=still, names=BEHIND)


def _pattern(stated: Any, count: int) -> list[str]:
    """A number n: every n-th layer sees everything; or the kinds of n layers as letters ("LLLG")."""
    every = len(stated) if isinstance(stated, str) else stated or count + 1
    return [SLIDING if (i + 1) % every else FULL for i in range(count)]


ARCHITECTURE = Architecture(stack=stack, defaults=EXAONE4_DEFAULTS, values=VALUES | MORE_VALUES, theta=1e4, end_token=2)
