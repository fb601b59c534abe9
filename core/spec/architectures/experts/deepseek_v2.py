"""DeepSeek-V2: latent attention, and experts by shares of a softmax, from the groups with the best ones; the first layers have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from ...decoder import DEFAULTS, decoder, gated, without
from ...experts import beside_shared, where
from ...hf_values import COUNT, NULL, TEXT
from ...latent import VALUES, latent_attention, names
from ...stack import RoutingSpec, StackSpec
from .. import Architecture

DEEPSEEK_V2_DEFAULTS = without(DEFAULTS, "num_key_value_heads", "head_dim") | {
    "vocab_size": 102400,
    "attention_bias": False,
    "mlp_bias": False,
    "moe_intermediate_size": 1407,
    "n_shared_experts": 2,
    "n_routed_experts": 64,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": False,
    "topk_method": "greedy",
    "n_group": None,
    "topk_group": None,
    "first_k_dense_replace": 0,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def routing(hf: Mapping[str, Any]) -> RoutingSpec:
    """Raises ModelError for ways that the published models do not have, and that their authors' code and transformers' disagree on."""
    method, interval = hf["topk_method"], hf.get("moe_layer_freq", 1)
    if method not in ("greedy", "group_limited_greedy") or hf["norm_topk_prob"] or interval != 1:
        raise ModelError(
            f"config.json: topk_method {method!r}, norm_topk_prob {hf['norm_topk_prob']!r} and moe_layer_freq {interval} are "
            "not supported together (supported: 'greedy' or 'group_limited_greedy', false and 1)"
        )
    grouped = method == "group_limited_greedy"
    return RoutingSpec(
        per_token=hf["num_experts_per_tok"],
        groups=hf["n_group"] or 1 if grouped else 1,
        groups_chosen=hf["topk_group"] or 1 if grouped else 1,
        scale=hf["routed_scaling_factor"],
    )


def stack(hf: Mapping[str, Any]) -> StackSpec:
    bias = bool(hf["mlp_bias"])
    experts = beside_shared(hf, routing(hf), shared_bias=bias)
    return decoder(
        hf,
        attention=latent_attention(hf, interleaved=True),
        feed_forward=where(hf, lambda index: index >= (hf["first_k_dense_replace"] or 0), experts, gated(hf, bias=bias)),
        names=names(hf),
    )


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_experts": "n_routed_experts"}
OWN_VALUES = VALUES | {"topk_method": TEXT | NULL, "moe_layer_freq": COUNT}
ARCHITECTURE = Architecture(stack=stack, other_names=OTHER_NAMES, defaults=DEEPSEEK_V2_DEFAULTS, values=OWN_VALUES, theta=1e4, end_token=2)
