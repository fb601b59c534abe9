"""Qwen3.5's language model: Qwen3-Next's layers with a gated feed-forward part; queries, keys and values in one layer, gates apart."""

from __future__ import annotations

from .. import Architecture
from .qwen3_next import DELTA_DEFAULTS, DELTA_VALUES, delta_network

QWEN3_5_DEFAULTS = DELTA_DEFAULTS | {"vocab_size": 248320, "intermediate_size": 12288, "num_key_value_heads": 4}
ARCHITECTURE = Architecture(stack=delta_network, defaults=QWEN3_5_DEFAULTS, values=DELTA_VALUES, theta=1e4, partial=0.25)
