"""OLMo 3: OLMo 2 with windows in three layers of four; only the fourth has a scaled rotation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import FULL, SLIDING, VALUES, ropes_by_kind, windows_of
from ...stack import StackSpec
from .. import Architecture
from . import olmo2

OLMO3_DEFAULTS = olmo2.OLMO2_DEFAULTS | {"sliding_window": 4096}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    kinds = hf.get("layer_types") or [SLIDING if (i + 1) % 4 else FULL for i in range(hf["num_hidden_layers"])]
    theta, head_dim = hf.get("rope_theta", 5e5), hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    ropes = ropes_by_kind({**hf, "layer_types": kinds, "head_dim": head_dim}, {FULL: theta, SLIDING: theta})
    return olmo2.stack(hf, windows=windows_of(kinds, hf["sliding_window"]), by_layer=ropes)


ARCHITECTURE = Architecture(stack=stack, defaults=OLMO3_DEFAULTS, values=VALUES, end_token=50279)
