"""Ministral 3: Mistral with YaRN, whose queries grow with the logarithm of their position in long contexts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, VALUES, decoder, sliding_windows
from ...stack import StackSpec
from .. import Architecture

MINISTRAL3_DEFAULTS = DEFAULTS | {
    "vocab_size": 131072,
    "intermediate_size": 14336,
    "num_hidden_layers": 34,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return decoder(hf, windows=sliding_windows(hf, switched=False))


ARCHITECTURE = Architecture(stack=stack, defaults=MINISTRAL3_DEFAULTS, values=VALUES, theta=1e6, end_token=2)
