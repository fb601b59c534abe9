"""Phi-3 and Phi-4: Llama with fused layers, and in long variants a rotation (LongRoPE) that leaves part of a head as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMING, VALUES, decoder, without
from ...names import Split
from ...stack import StackSpec
from .. import Architecture

PHI3_DEFAULTS = without(DEFAULTS, "head_dim") | {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    rope = {**hf["rope_parameters"]}
    if rope["rope_type"] == "yarn":  # what first releases called it
        rope["rope_type"] = "longrope"
    window = hf["sliding_window"]
    made = decoder({**hf, "rope_parameters": rope}, windows=(window,) * hf["num_hidden_layers"])
    return replace(made, naming=replace(NAMING, splits=fused(made)))


def fused(made: StackSpec) -> dict[str, Split]:
    """Queries, keys and values in one layer, gate and up in another."""
    one = made.layers[0].need_attention()
    sizes = (one.num_heads * one.head_dim, one.num_kv_heads * one.head_dim, one.num_kv_heads * one.head_dim)
    qkv = Split((".q_proj.", ".k_proj.", ".v_proj."), sizes)
    return {".qkv_proj.": qkv, ".gate_up_proj.": GATE_UP}


GATE_UP = Split((".gate_proj.", ".up_proj."))
ARCHITECTURE = Architecture(stack=stack, defaults=PHI3_DEFAULTS, values=VALUES, theta=1e4, partial=1.0, end_token=32000)
