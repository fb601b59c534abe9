"""GLM-4.5: experts by sigmoids and a learned correction, from the best groups, beside one for all tokens; the first layers have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, decoder, gated, qk_norm
from ...experts import NAMES, VALUES, beside_shared, by_sigmoids, where, without_further
from ...stack import StackSpec
from .. import Architecture

GLM4_MOE_DEFAULTS = DEFAULTS | {
    "vocab_size": 151552,
    "intermediate_size": 10944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "use_qk_norm": False,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 128,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "num_mtp_layers": 1,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    experts = beside_shared(hf, by_sigmoids(hf))
    attention = {"qkv_bias": bool(hf["attention_bias"]), "qk_norm": qk_norm(hf) if hf["use_qk_norm"] else None}
    parts = where(hf, lambda index: index >= (hf["first_k_dense_replace"] or 0), experts, gated(hf))
    return decoder(hf, attention=attention, feed_forward=parts, names=NAMES, naming=without_further(hf, hf["num_mtp_layers"]))


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_local_experts": "n_routed_experts", "num_nextn_predict_layers": "num_mtp_layers"}
ARCHITECTURE = Architecture(stack=stack, other_names=OTHER_NAMES, defaults=GLM4_MOE_DEFAULTS, values=VALUES, theta=1e4, partial=0.5)
