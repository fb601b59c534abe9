"""OLMoE: experts in every layer, norms of all queries and of all keys together, and clipped queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, biased, decoder, qk_norm
from ...experts import NAMES, VALUES
from ...hf_values import NULL, POSITIVE
from ...stack import ExpertsSpec, RoutingSpec, StackSpec
from .. import Architecture

OLMOE_DEFAULTS = DEFAULTS | {
    "vocab_size": 50304,
    "hidden_size": 2048,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "clip_qkv": None,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    experts = ExpertsSpec(
        count=hf["num_experts"],
        routing=RoutingSpec(per_token=hf["num_experts_per_tok"], normalized=bool(hf["norm_topk_prob"])),
        size=hf["intermediate_size"],
        activation=hf["hidden_act"],
    )
    attention = {**biased(hf), "qk_norm": qk_norm(hf), "qk_norm_over": "all", "clip": hf["clip_qkv"]}
    return decoder(hf, attention=attention, feed_forward=experts, names=NAMES)


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_local_experts": "num_experts"}
ARCHITECTURE = Architecture(
    stack=stack, other_names=OTHER_NAMES, defaults=OLMOE_DEFAULTS, values=VALUES | {"clip_qkv": POSITIVE | NULL}, theta=1e4, end_token=50279
)
