"""Qwen3.5-MoE's language model: Qwen3.5's layers with Qwen3-Next's experts, whose matrices are one tensor a layer or one each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...names import Stack
from ...stack import StackSpec
from .. import Architecture
from .qwen3_next import DELTA_DEFAULTS, DELTA_VALUES, delta_network, experts_of

STACKS = {
    "mlp.experts.gate_up_proj": Stack(("mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.up_proj.weight")),
    "mlp.experts.down_proj": Stack(("mlp.experts.{}.down_proj.weight",)),
}
QWEN3_5_MOE_DEFAULTS = {key: value for key, value in DELTA_DEFAULTS.items() if key != "intermediate_size"} | {
    "vocab_size": 248320,
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 8,
    "num_experts": 256,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    made = delta_network(hf, feed_forward=experts_of({**hf, "norm_topk_prob": True}))
    return replace(made, naming=replace(made.naming, stacks=STACKS))


ARCHITECTURE = Architecture(stack=stack, defaults=QWEN3_5_MOE_DEFAULTS, values=DELTA_VALUES, theta=1e4, partial=0.25)
