"""Qwen3: Llama with an RMSNorm of each query and key head before rotation and an explicit head size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import VALUES, WINDOW_DEFAULTS, decoder, qk_norm, sliding_windows
from ...stack import StackSpec
from .. import Architecture


def stack(hf: Mapping[str, Any]) -> StackSpec:
    bias = bool(hf.get("attention_bias", False))
    attention = {"qkv_bias": bias, "out_bias": bias, "qk_norm": qk_norm(hf)}
    return decoder(hf, attention=attention, windows=sliding_windows(hf, switched=True))


ARCHITECTURE = Architecture(stack=stack, defaults=WINDOW_DEFAULTS | {"head_dim": 128, "attention_bias": False}, values=VALUES, theta=1e4)
