"""OLMo 2: norms behind attention and feed-forward part in place of before them, and of all queries and of all keys together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMES, VALUES, biased, decoder, qk_norm, without
from ...stack import StackSpec
from .. import Architecture

OLMO2_DEFAULTS = without(DEFAULTS, "head_dim") | {"vocab_size": 50304, "attention_bias": False, "rms_norm_eps": 1e-5}
#: Norms are behind the parts only.
BEHIND = replace(
    NAMES,
    attention_norm="",
    attention_out_norm="post_attention_layernorm",
    mlp_norm="",
    mlp_out_norm="post_feedforward_layernorm",
)


def stack(hf: Mapping[str, Any], **more: Any) -> StackSpec:
    """`more`: arguments of `decoder`."""
    return decoder(hf, attention={**biased(hf), "qk_norm": qk_norm(hf), "qk_norm_over": "all"}, names=BEHIND, **more)


ARCHITECTURE = Architecture(stack=stack, defaults=OLMO2_DEFAULTS, values=VALUES, theta=1e4, end_token=50279)
