"""MiniMax-M2: experts by sigmoids and a learned correction, norms of all queries and of all keys together, partial rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, decoder, qk_norm
from ...experts import NAMES, VALUES
from ...hf_values import COUNT, NULL
from ...rope import RopeConfig
from ...stack import ExpertsSpec, RoutingSpec, StackSpec
from .. import Architecture

MINIMAX_NAMES = replace(
    NAMES,
    router="block_sparse_moe.gate",
    router_correction="block_sparse_moe.e_score_correction_bias",
    expert_up=("block_sparse_moe.experts.{}.w1", "block_sparse_moe.experts.{}.w3"),
    expert_down="block_sparse_moe.experts.{}.w2",
)
MINIMAX_DEFAULTS = DEFAULTS | {
    "vocab_size": 200064,
    "hidden_size": 3072,
    "intermediate_size": 1536,
    "num_hidden_layers": 62,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 196608,
    "num_local_experts": 256,
    "num_experts_per_tok": 8,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    experts = ExpertsSpec(
        count=hf["num_local_experts"],
        routing=RoutingSpec(per_token=hf["num_experts_per_tok"], scores="sigmoid", correction=1, normalized=True),
        size=hf["intermediate_size"],
        activation=hf["hidden_act"],
    )
    rope = dict(hf["rope_parameters"])
    if (rotary_dim := hf.get("rotary_dim")) is not None and rope["partial_rotary_factor"] == 1:
        rope["partial_rotary_factor"] = rotary_dim / hf["head_dim"]
    attention = {
        "qk_norm": qk_norm(hf),
        "qk_norm_over": "all",
        "rope": RopeConfig.from_hf({**hf, "rope_parameters": rope}, hf["head_dim"]),
    }
    return decoder(hf, attention=attention, feed_forward=experts, names=MINIMAX_NAMES)


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_experts": "num_local_experts"}
ARCHITECTURE = Architecture(
    stack=stack,
    other_names=OTHER_NAMES,
    defaults=MINIMAX_DEFAULTS,
    values=VALUES | {"rotary_dim": COUNT | NULL, "head_dim": COUNT},
    theta=5e6,
    partial=1.0,
    end_token=200020,
)
