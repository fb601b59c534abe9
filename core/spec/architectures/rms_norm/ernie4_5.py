"""ERNIE 4.5 (dense): Llama whose features turn with their neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, VALUES, decoder, gated
from ...hf_values import FLAG
from ...rope import RopeConfig
from ...stack import StackSpec
from .. import Architecture

ERNIE_DEFAULTS = DEFAULTS | {
    "vocab_size": 103424,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "use_bias": False,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    bias, head_dim = hf["use_bias"], hf["head_dim"] or hf["hidden_size"] // hf["num_attention_heads"]
    attention = {"qkv_bias": bias, "out_bias": bias, "rope": RopeConfig.from_hf(hf, head_dim, interleaved=True)}
    return decoder(hf, attention=attention, feed_forward=gated(hf, bias=bias))


ARCHITECTURE = Architecture(stack=stack, defaults=ERNIE_DEFAULTS, values=VALUES | {"use_bias": FLAG}, theta=5e5, end_token=2)
