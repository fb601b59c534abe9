"""DeepSeek-V3: latent attention, and experts by sigmoids and a learned correction, from the best groups; the first layers have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, decoder, gated, without
from ...experts import beside_shared, by_sigmoids, where, without_further
from ...latent import VALUES, latent_attention, names
from ...stack import StackSpec
from .. import Architecture

DEEPSEEK_V3_DEFAULTS = without(DEFAULTS, "num_key_value_heads", "head_dim") | {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "max_position_embeddings": 4096,
    "attention_bias": False,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rope_interleave": True,
    "num_mtp_layers": 1,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    experts = beside_shared(hf, by_sigmoids(hf))
    return decoder(
        hf,
        attention=latent_attention(hf, interleaved=bool(hf["rope_interleave"])),
        feed_forward=where(hf, lambda index: index >= (hf["first_k_dense_replace"] or 0), experts, gated(hf)),
        names=names(hf),
        naming=without_further(hf, hf["num_mtp_layers"]),
    )


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_local_experts": "n_routed_experts", "num_nextn_predict_layers": "num_mtp_layers"}
ARCHITECTURE = Architecture(stack=stack, other_names=OTHER_NAMES, defaults=DEEPSEEK_V3_DEFAULTS, values=VALUES, theta=1e4, end_token=1)
