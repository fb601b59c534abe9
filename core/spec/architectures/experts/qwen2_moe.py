"""Qwen2-MoE: Qwen2 with experts, one of which every token has, weighed by a gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import FULL, SLIDING, WINDOW_DEFAULTS, decoder, windows_of
from ...experts import NAMES, STEP_DEFAULTS, VALUES, by_step
from ...stack import ExpertsSpec, RoutingSpec, StackSpec
from .. import Architecture

QWEN_NAMES = replace(
    NAMES,
    shared_up=("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
    shared_down="mlp.shared_expert.down_proj",
    shared_gate="mlp.shared_expert_gate",
)
QWEN2_MOE_DEFAULTS = {
    **WINDOW_DEFAULTS,
    **STEP_DEFAULTS,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "qkv_bias": True,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    experts = ExpertsSpec(
        count=hf["num_experts"],
        routing=RoutingSpec(per_token=hf["num_experts_per_tok"], normalized=bool(hf["norm_topk_prob"])),
        size=hf["moe_intermediate_size"],
        activation=hf["hidden_act"],
        shared_size=hf["shared_expert_intermediate_size"],
        shared_gate=True,
    )
    on, most = hf["use_sliding_window"], hf["max_window_layers"]
    kinds = hf.get("layer_types") or [SLIDING if on and i < most and i % 2 == 0 else FULL for i in range(hf["num_hidden_layers"])]
    windows = windows_of(kinds, hf["sliding_window"] if on else None, "" if on else ", since use_sliding_window is false")
    return decoder(hf, attention={"qkv_bias": bool(hf["qkv_bias"])}, windows=windows, feed_forward=by_step(hf, experts), names=QWEN_NAMES)


ARCHITECTURE = Architecture(stack=stack, defaults=QWEN2_MOE_DEFAULTS, values=VALUES, theta=1e4)
