"""Apertus: norms of queries and keys, and a plain feed-forward part whose activation (xIELU) has learned numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMES, NAMING, VALUES, biased, decoder, qk_norm, without
from ...stack import MLPSpec, StackSpec
from .. import Architecture

APERTUS_DEFAULTS = without(DEFAULTS, "head_dim") | {
    "vocab_size": 131072,
    "intermediate_size": 14336,
    "hidden_act": "xielu",
    "max_position_embeddings": 65536,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
}
ROPE = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
APERTUS_NAMES = replace(
    NAMES, attention_norm="attention_layernorm", mlp_norm="feedforward_layernorm", up=("mlp.up_proj",), activation="mlp.act_fn"
)
APERTUS_NAMING = replace(NAMING, buffers=(".act_fn.beta", ".act_fn.eps"))


def stack(hf: Mapping[str, Any]) -> StackSpec:
    mlp = MLPSpec(size=hf["intermediate_size"], activation=hf["hidden_act"], gated=False)
    attention = {**biased(hf), "qk_norm": qk_norm(hf)}
    return decoder(hf, attention=attention, feed_forward=mlp, names=APERTUS_NAMES, naming=APERTUS_NAMING)


ARCHITECTURE = Architecture(
    stack=stack, defaults=APERTUS_DEFAULTS | {"rope_parameters": {"rope_theta": 12e6, **ROPE}}, values=VALUES, theta=12e6, end_token=2
)
