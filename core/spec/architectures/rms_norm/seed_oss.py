"""Seed-OSS: Llama with biases on queries, keys and values, and an explicit head size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, VALUES, decoder, gated
from ...hf_values import FLAG
from ...stack import StackSpec
from .. import Architecture

SEED_DEFAULTS = DEFAULTS | {
    "vocab_size": 155136,
    "intermediate_size": 27648,
    "num_hidden_layers": 64,
    "num_attention_heads": 80,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 524288,
    "attention_bias": True,
    "attention_out_bias": False,
    "mlp_bias": False,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    bias = {"qkv_bias": hf["attention_bias"], "out_bias": hf["attention_out_bias"]}
    return decoder(hf, attention=bias, feed_forward=gated(hf, bias=hf["mlp_bias"]))


ARCHITECTURE = Architecture(stack=stack, defaults=SEED_DEFAULTS, values=VALUES | {"attention_out_bias": FLAG}, theta=1e4, end_token=2)
