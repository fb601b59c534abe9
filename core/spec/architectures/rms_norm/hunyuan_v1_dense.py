"""Hunyuan (dense): Llama with norms of queries and keys behind their rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMES, VALUES, biased, decoder, qk_norm
from ...stack import StackSpec
from .. import Architecture

HUNYUAN_DEFAULTS = DEFAULTS | {"vocab_size": 290943, "rms_norm_eps": 1e-5, "attention_bias": False}
HUNYUAN_NAMES = replace(NAMES, q_norm="self_attn.query_layernorm", k_norm="self_attn.key_layernorm")


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return decoder(hf, attention={**biased(hf), "qk_norm": qk_norm(hf), "norm_after_rotation": True}, names=HUNYUAN_NAMES)


ARCHITECTURE = Architecture(stack=stack, defaults=HUNYUAN_DEFAULTS, values=VALUES, theta=1e4, end_token=2)
