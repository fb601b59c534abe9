"""Phi-1 to Phi-2: attention and feed-forward part beside each other behind one norm, biases everywhere, half of a head turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMES, VALUES, decoder, layer_norm, plain, without
from ...hf_values import FLAG, POSITIVE
from ...stack import StackSpec
from .. import Architecture

PHI_DEFAULTS = without(DEFAULTS, "head_dim", "rms_norm_eps") | {
    "vocab_size": 51200,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-5,
    "qk_layernorm": False,
}
PHI_NAMES = replace(
    NAMES,
    q_norm="self_attn.q_layernorm",
    k_norm="self_attn.k_layernorm",
    attention_out="self_attn.dense",
    mlp_norm="",
    up=("mlp.fc1",),
    down="mlp.fc2",
    final_norm="model.final_layernorm",
)


def stack(hf: Mapping[str, Any]) -> StackSpec:
    norm = layer_norm(hf, "layer_norm_eps")
    return decoder(
        hf,
        attention={"qkv_bias": True, "out_bias": True, "qk_norm": norm if hf["qk_layernorm"] else None},
        feed_forward=plain(hf["intermediate_size"], hf["hidden_act"]),
        names=PHI_NAMES,
        norm=norm,
        parallel=True,
        head_bias=True,
    )


ARCHITECTURE = Architecture(
    stack=stack,
    defaults=PHI_DEFAULTS,
    values=VALUES | {"layer_norm_eps": POSITIVE, "qk_layernorm": FLAG},
    theta=1e4,
    partial=0.5,
    end_token=2,
)
