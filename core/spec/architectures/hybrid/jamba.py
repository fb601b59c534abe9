"""Jamba: Mamba with norms of times, B and C, some layers that attend without rotation, and experts in every other layer or so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...decoder import DEFAULTS, NAMING, decoder, gated, without
from ...experts import NAMES, VALUES
from ...hf_values import COUNT, FLAG, TEXT, WHOLE
from ...hybrid import rank_of, silu_only
from ...mamba import MambaSpec
from ...stack import ExpertsSpec, MLPSpec, RoutingSpec, StackSpec
from .. import Architecture

JAMBA_NAMES = replace(
    NAMES,
    mixer="mamba",
    mlp_norm="pre_ff_layernorm",
    up=("feed_forward.gate_proj", "feed_forward.up_proj"),
    down="feed_forward.down_proj",
    router="feed_forward.router",
    expert_up=("feed_forward.experts.{}.gate_proj", "feed_forward.experts.{}.up_proj"),
    expert_down="feed_forward.experts.{}.down_proj",
    final_norm="model.final_layernorm",
)
PERIODS = {"expert_layer_period": 2, "attn_layer_period": 8}
OFFSETS = {"expert_layer_offset": 1, "attn_layer_offset": 4}
JAMBA_DEFAULTS = without(DEFAULTS, "head_dim") | {
    "vocab_size": 65536,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 262144,
    "num_experts_per_tok": 2,
    "num_experts": 16,
    **PERIODS,
    **OFFSETS,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": "auto",
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
}
JAMBA_VALUES = VALUES | {
    **dict.fromkeys((*PERIODS, "mamba_d_state", "mamba_d_conv", "mamba_expand"), COUNT),
    **dict.fromkeys(OFFSETS, WHOLE),
    **dict.fromkeys(("mamba_conv_bias", "mamba_proj_bias"), FLAG),
    "mamba_dt_rank": COUNT | TEXT,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    silu_only(hf["hidden_act"])
    mixer = MambaSpec(
        size=hf["mamba_expand"] * hf["hidden_size"],
        state_size=hf["mamba_d_state"],
        rank=rank_of(hf["mamba_dt_rank"], hf["hidden_size"]),
        width=hf["mamba_d_conv"],
        bias=hf["mamba_proj_bias"],
        conv_bias=hf["mamba_conv_bias"],
        norm_eps=hf["rms_norm_eps"],
        learned_norms=True,
    )
    for kind in ("expert", "attn"):
        if hf[f"{kind}_layer_offset"] >= hf[f"{kind}_layer_period"]:
            raise ModelError(f"config.json: {kind}_layer_offset must be below {kind}_layer_period")
    layers = range(hf["num_hidden_layers"])
    attending = [index % hf["attn_layer_period"] == hf["attn_layer_offset"] for index in layers]
    feed_forward: list[MLPSpec | ExpertsSpec] = [gated(hf)] * len(layers)
    if hf["num_experts"] > 1:
        experts = ExpertsSpec(
            count=hf["num_experts"],
            routing=RoutingSpec(per_token=hf["num_experts_per_tok"]),
            size=hf["intermediate_size"],
            activation=hf["hidden_act"],
        )
        sparse = [index % hf["expert_layer_period"] == hf["expert_layer_offset"] for index in layers]
        feed_forward = [experts if one else dense for one, dense in zip(sparse, feed_forward, strict=True)]
    return decoder(
        hf,
        attention={"rope": None},
        mixers=[None if one else mixer for one in attending],
        feed_forward=feed_forward,
        names=JAMBA_NAMES,
        naming=replace(NAMING, splits=mixer.splits("mamba")),
    )


ARCHITECTURE = Architecture(
    stack=stack, other_names={"num_local_experts": "num_experts"}, defaults=JAMBA_DEFAULTS, values=JAMBA_VALUES, end_token=2
)
