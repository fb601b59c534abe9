"""GLM-4.7-Flash: DeepSeek-V3's attention and experts; layers name in config.json whether they have experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, check_length, decoder, gated, without
from ...experts import beside_shared, by_sigmoids, where, without_further
from ...hf_values import NULL, TEXTS
from ...latent import VALUES, latent_attention, names
from ...stack import StackSpec
from .. import Architecture

GLM4_MOE_LITE_DEFAULTS = without(DEFAULTS, "num_key_value_heads", "head_dim") | {
    "vocab_size": 154880,
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "max_position_embeddings": 202752,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "n_shared_experts": 1,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "routed_scaling_factor": 1.8,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "rope_interleave": True,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    kinds = hf.get("mlp_layer_types") or ["dense", *["sparse"] * (hf["num_hidden_layers"] - 1)]
    check_length("mlp_layer_types", kinds, hf["num_hidden_layers"])
    return decoder(
        hf,
        attention=latent_attention(hf, interleaved=bool(hf["rope_interleave"])),
        feed_forward=where(hf, lambda index: kinds[index] == "sparse", beside_shared(hf, by_sigmoids(hf)), gated(hf)),
        names=names(hf),
        naming=without_further(hf, hf.get("num_nextn_predict_layers", 1)),
    )


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_local_experts": "n_routed_experts", "head_dim": "qk_rope_head_dim"}
ARCHITECTURE = Architecture(
    stack=stack,
    other_names=OTHER_NAMES,
    defaults=GLM4_MOE_LITE_DEFAULTS,
    values=VALUES | {"mlp_layer_types": TEXTS | NULL},
    theta=1e4,
    partial=1.0,
    end_token=1,
)
