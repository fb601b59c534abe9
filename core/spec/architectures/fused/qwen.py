"""The first Qwen: Qwen2 with fused layers and names of its own. Texts are as long as it was trained with (`seq_length`): up to there, its
stretched rotation and its queries that grow with the logarithm of their position change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, VALUES, decoder, gated, without
from ...hf_values import COUNT, FLAG, FRACTION
from ...names import Names, Naming, Split
from ...stack import StackSpec
from .. import Architecture

NAMES = Names(
    words="transformer.wte",
    layer="transformer.h.{}",
    attention_norm="ln_1",
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    attention_out="attn.c_proj",
    mlp_norm="ln_2",
    up=("mlp.w2", "mlp.w1"),
    down="mlp.c_proj",
    final_norm="transformer.ln_f",
    head="lm_head",
)
NAMING = Naming(("transformer.",), splits={"attn.c_attn.": Split(("attn.q_proj.", "attn.k_proj.", "attn.v_proj."))})
QWEN_DEFAULTS = without(DEFAULTS, "num_key_value_heads", "head_dim", "hidden_act") | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "max_position_embeddings": 8192,
    "kv_channels": 128,
    "no_bias": True,
}
#: Keys that stand for these, of the configs of first releases and of later ones.
OTHER_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "ffn_hidden_size": "intermediate_size",
    "layer_norm_epsilon": "rms_norm_eps",
    "rotary_emb_base": "rope_theta",
    "rotary_pct": "partial_rotary_factor",
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    sizes = {**hf, "head_dim": hf["kv_channels"], "num_key_value_heads": None}
    mlp = gated({**hf, "intermediate_size": hf["intermediate_size"] // 2, "hidden_act": "silu"}, bias=not hf["no_bias"])
    attention = {"qkv_bias": True, "out_bias": not hf["no_bias"]}
    return decoder(sizes, attention=attention, feed_forward=mlp, names=NAMES, naming=NAMING)


ARCHITECTURE = Architecture(
    stack=stack,
    other_names=OTHER_NAMES,
    defaults=QWEN_DEFAULTS,
    values=VALUES | {"kv_channels": COUNT, "no_bias": FLAG, "partial_rotary_factor": FRACTION},
    theta=1e4,
    partial=1.0,
    end_token=151643,
)
