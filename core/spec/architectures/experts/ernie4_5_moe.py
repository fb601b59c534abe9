"""ERNIE 4.5 with experts: by shares of a softmax and a learned correction, beside an expert for all tokens; some layers have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMING, decoder, gated
from ...experts import NAMES, VALUES, where
from ...hf_values import POSITIVE, TOKEN
from ...rope import RopeConfig
from ...stack import ExpertsSpec, RoutingSpec, StackSpec
from .. import Architecture

ERNIE_NAMES = replace(NAMES, router_correction="mlp.moe_statics.e_score_correction_bias")
ERNIE_DEFAULTS = DEFAULTS | {
    "vocab_size": 103424,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "use_bias": False,
    "moe_intermediate_size": 1536,
    "moe_k": 6,
    "moe_num_experts": 64,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_interval": 1,
    "moe_norm_min": 1e-12,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    bias = bool(hf["use_bias"])
    experts = ExpertsSpec(
        count=hf["moe_num_experts"],
        routing=RoutingSpec(per_token=hf["moe_k"], correction=2, normalized=True, smallest_sum=hf["moe_norm_min"]),
        size=hf["moe_intermediate_size"],
        activation=hf["hidden_act"],
        shared_size=hf["moe_intermediate_size"] * (hf["moe_num_shared_experts"] or 0),
        shared_bias=bias,
    )
    first, last, interval = hf["moe_layer_start_index"], hf.get("moe_layer_end_index", -1), hf["moe_layer_interval"]
    last = hf["num_hidden_layers"] - 1 if last == -1 else last
    parts = where(hf, lambda index: (index + 1) % interval == 0 and first <= index <= last, experts, gated(hf, bias=bias))
    head_dim = hf["head_dim"] or hf["hidden_size"] // hf["num_attention_heads"]
    attention = {"qkv_bias": bias, "out_bias": bias, "rope": RopeConfig.from_hf(hf, head_dim, interleaved=True)}
    naming = replace(NAMING, unused=("model.mtp_",), renames={"mlp.gate.moe_statics.": "mlp.moe_statics."})
    return decoder(hf, attention=attention, feed_forward=parts, names=ERNIE_NAMES, naming=naming, head_bias=bias)


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"}
ARCHITECTURE = Architecture(
    stack=stack,
    other_names=OTHER_NAMES,
    defaults=ERNIE_DEFAULTS,
    values=VALUES | {"moe_layer_end_index": TOKEN, "moe_norm_min": POSITIVE},
    theta=5e5,
    end_token=2,
)
