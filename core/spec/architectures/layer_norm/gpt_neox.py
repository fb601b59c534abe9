"""GPT-NeoX (Pythia, Dolly): attention and feed-forward part beside each other, each behind a norm of its own; a quarter of a head turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, VALUES, by_head, decoder, layer_norm, plain, ungrouped, without
from ...hf_values import FLAG, FRACTION, POSITIVE
from ...names import Names, Naming
from ...stack import StackSpec
from .. import Architecture

NAMES = Names(
    words="gpt_neox.embed_in",
    layer="gpt_neox.layers.{}",
    attention_norm="input_layernorm",
    qkv=("attention.q", "attention.k", "attention.v"),
    attention_out="attention.dense",
    mlp_norm="post_attention_layernorm",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    final_norm="gpt_neox.final_layer_norm",
    head="embed_out",
)
NEOX_DEFAULTS = without(DEFAULTS, "num_key_value_heads", "head_dim", "rms_norm_eps") | {
    "vocab_size": 50432,
    "hidden_size": 6144,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "intermediate_size": 24576,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "attention_bias": True,
}
MORE_VALUES = {"layer_norm_eps": POSITIVE, "use_parallel_residual": FLAG, "rotary_pct": FRACTION, "rotary_emb_base": POSITIVE}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    rope = {**hf["rope_parameters"]}
    if "rotary_pct" in hf:  # before transformers 5
        rope |= {"partial_rotary_factor": hf["rotary_pct"], "rope_theta": hf.get("rotary_emb_base", 1e4)}
    made = decoder(
        {**ungrouped(hf), "rope_parameters": rope},
        attention={"qkv_bias": hf["attention_bias"], "out_bias": hf["attention_bias"]},
        feed_forward=plain(hf["intermediate_size"], hf["hidden_act"]),
        names=NAMES,
        norm=layer_norm(hf, "layer_norm_eps"),
        parallel=hf["use_parallel_residual"],
    )
    splits = {"attention.query_key_value.": by_head(made, ("attention.q.", "attention.k.", "attention.v."))}
    buffers = (".attention.bias", ".attention.masked_bias")
    return replace(made, naming=Naming(("gpt_neox.",), {"lm_head.": "embed_out."}, splits=splits, buffers=buffers))


ARCHITECTURE = Architecture(stack=stack, defaults=NEOX_DEFAULTS, values=VALUES | MORE_VALUES, theta=1e4, partial=0.25, end_token=2)
