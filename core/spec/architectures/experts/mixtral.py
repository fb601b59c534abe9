"""Mixtral: Mistral with a mixture of experts in the place of the feed-forward part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, VALUES, decoder, sliding_windows
from ...decoder import NAMES as LLAMA_NAMES
from ...hf_values import COUNT
from ...stack import ExpertsSpec, RoutingSpec, StackSpec
from .. import Architecture

NAMES = replace(
    LLAMA_NAMES,
    router="block_sparse_moe.gate",
    expert_up=("block_sparse_moe.experts.{}.w1", "block_sparse_moe.experts.{}.w3"),
    expert_down="block_sparse_moe.experts.{}.w2",
)
MIXTRAL_DEFAULTS = DEFAULTS | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
MORE_VALUES = dict.fromkeys(("num_local_experts", "num_experts_per_tok"), COUNT)


def stack(hf: Mapping[str, Any]) -> StackSpec:
    routing = RoutingSpec(per_token=hf["num_experts_per_tok"], scores="chosen")
    experts = ExpertsSpec(count=hf["num_local_experts"], routing=routing, size=hf["intermediate_size"], activation=hf["hidden_act"])
    return decoder(hf, windows=sliding_windows(hf, switched=False), feed_forward=experts, names=NAMES)


ARCHITECTURE = Architecture(
    stack=stack,
    defaults=MIXTRAL_DEFAULTS,
    values=VALUES | MORE_VALUES,
    other_names={"num_experts": "num_local_experts"},
    theta=1e6,
    end_token=2,
)
