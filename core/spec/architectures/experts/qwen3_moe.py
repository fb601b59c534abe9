"""Qwen3-MoE: Qwen3 with experts; a window, where it is switched on, is of every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import WINDOW_DEFAULTS, biased, decoder, qk_norm
from ...experts import NAMES, STEP_DEFAULTS, VALUES, by_step
from ...stack import ExpertsSpec, RoutingSpec, StackSpec
from .. import Architecture

QWEN3_MOE_DEFAULTS = {
    **WINDOW_DEFAULTS,
    **STEP_DEFAULTS,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_key_value_heads": 4,
    "attention_bias": False,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}

del QWEN3_MOE_DEFAULTS["max_window_layers"]


def stack(hf: Mapping[str, Any]) -> StackSpec:
    experts = ExpertsSpec(
        count=hf["num_experts"],
        routing=RoutingSpec(per_token=hf["num_experts_per_tok"], normalized=bool(hf["norm_topk_prob"])),
        size=hf["moe_intermediate_size"],
        activation=hf["hidden_act"],
    )
    window = hf["sliding_window"] if hf["use_sliding_window"] else None
    windows = (window,) * hf["num_hidden_layers"] if window else ()
    return decoder(hf, attention={**biased(hf), "qk_norm": qk_norm(hf)}, windows=windows, feed_forward=by_step(hf, experts), names=NAMES)


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_local_experts": "num_experts"}
ARCHITECTURE = Architecture(stack=stack, other_names=OTHER_NAMES, defaults=QWEN3_MOE_DEFAULTS, values=VALUES, theta=1e4)
