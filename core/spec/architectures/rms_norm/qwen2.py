"""Qwen2: Llama with biases on queries, keys and values; windows only in upper layers, and only when switched on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import VALUES, WINDOW_DEFAULTS, decoder, sliding_windows
from ...stack import StackSpec
from .. import Architecture


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return decoder(hf, attention={"qkv_bias": True}, windows=sliding_windows(hf, switched=True))


ARCHITECTURE = Architecture(stack=stack, defaults=WINDOW_DEFAULTS, values=VALUES, theta=1e4)
