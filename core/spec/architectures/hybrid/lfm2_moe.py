"""LFM2-MoE: LFM2 with experts by sigmoids and a learned correction in all but the first layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import gated, without
from ...experts import VALUES, where
from ...hf_values import FLAG, WHOLE
from ...stack import ExpertsSpec, RoutingSpec, StackSpec
from .. import Architecture
from .lfm2 import LFM2_DEFAULTS, LFM2_NAMES, LFM2_VALUES, hybrid

LFM2_MOE_NAMES = replace(
    LFM2_NAMES,
    router="feed_forward.gate",
    router_correction="feed_forward.expert_bias",
    expert_up=("feed_forward.experts.{}.w1", "feed_forward.experts.{}.w3"),
    expert_down="feed_forward.experts.{}.w2",
)
LFM2_MOE_DEFAULTS = without(LFM2_DEFAULTS, "block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of") | {
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_dense_layers": 2,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
    "use_expert_bias": True,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    routing = RoutingSpec(
        per_token=hf["num_experts_per_tok"],
        scores="sigmoid",
        correction=int(hf["use_expert_bias"]),
        normalized=bool(hf["norm_topk_prob"]),
        added_to_sum=1e-6,
        scale=hf["routed_scaling_factor"],
    )
    experts = ExpertsSpec(count=hf["num_experts"], routing=routing, size=hf["moe_intermediate_size"], activation="silu")
    parts = where(hf, lambda index: index >= hf["num_dense_layers"], experts, gated(hf))
    return hybrid(hf, parts, names=LFM2_MOE_NAMES)


ARCHITECTURE = Architecture(
    stack=stack,
    other_names={"tie_embedding": "tie_word_embeddings"},
    defaults=LFM2_MOE_DEFAULTS,
    values=VALUES | LFM2_VALUES | {"num_dense_layers": WHOLE, "use_expert_bias": FLAG},
    theta=1e6,
    end_token=2,
)
