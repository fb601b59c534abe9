"""Mistral: Llama with a sliding window in every layer (first releases) and an explicit head size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, VALUES, decoder, sliding_windows
from ...stack import StackSpec
from .. import Architecture

MISTRAL_DEFAULTS = DEFAULTS | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return decoder(hf, windows=sliding_windows(hf, switched=False))


ARCHITECTURE = Architecture(stack=stack, defaults=MISTRAL_DEFAULTS, values=VALUES, theta=1e4, end_token=2)
