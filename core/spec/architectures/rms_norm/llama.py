"""Llama and what is shaped like it: pre-norm, rotary positions, SwiGLU, grouped-query attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, VALUES, decoder, gated
from ...stack import StackSpec
from .. import Architecture


def stack(hf: Mapping[str, Any]) -> StackSpec:
    bias = bool(hf.get("attention_bias", False))
    return decoder(hf, attention={"qkv_bias": bias, "out_bias": bias}, feed_forward=gated(hf, bias=bool(hf.get("mlp_bias", False))))


ARCHITECTURE = Architecture(
    stack=stack, defaults=DEFAULTS | {"attention_bias": False, "mlp_bias": False}, values=VALUES, theta=1e4, end_token=2
)
