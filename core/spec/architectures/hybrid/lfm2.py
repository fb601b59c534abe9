"""LFM2: gated short convolutions in most layers, and in the others attention with a norm of each query and key head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...decoder import DEFAULTS, FULL, NAMES, VALUES, decoder, gated, qk_norm, without
from ...hf_values import COUNT, COUNTS, FLAG, NULL, POSITIVE, TEXTS
from ...mixers import ShortConvSpec
from ...names import Naming, Split
from ...stack import MLPSpec, StackSpec
from .. import Architecture

LFM2_NAMES = replace(
    NAMES,
    attention_norm="operator_norm",
    mixer="conv",
    q_norm="self_attn.q_layernorm",
    k_norm="self_attn.k_layernorm",
    attention_out="self_attn.out_proj",
    mlp_norm="ffn_norm",
    up=("feed_forward.w1", "feed_forward.w3"),
    down="feed_forward.w2",
    final_norm="model.embedding_norm",
)
LFM2_NAMING = Naming(("model.",), splits={"conv.in_proj.": Split(("conv.b_proj.", "conv.c_proj.", "conv.x_proj."))})
LFM2_DEFAULTS = without(DEFAULTS, "hidden_act", "rms_norm_eps", "head_dim") | {
    "vocab_size": 65536,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_auto_adjust_ff_dim": True,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
}
LFM2_VALUES = VALUES | {
    **dict.fromkeys(("conv_L_cache", "block_multiple_of"), COUNT),
    **dict.fromkeys(("conv_bias", "block_auto_adjust_ff_dim", "tie_embedding"), FLAG),
    "norm_eps": POSITIVE,
    "block_ffn_dim_multiplier": POSITIVE | NULL,
    "full_attn_idxs": COUNTS | NULL,
    "layer_types": TEXTS | NULL,
}
#: Of what keeps states, in layer_types.
CONV = "conv"


def stack(hf: Mapping[str, Any]) -> StackSpec:
    size = hf["intermediate_size"]
    if hf["block_auto_adjust_ff_dim"]:
        size = int(2 * size / 3)
        if hf["block_ffn_dim_multiplier"] is not None:
            size = int(hf["block_ffn_dim_multiplier"] * size)
            size = -(-size // hf["block_multiple_of"]) * hf["block_multiple_of"]
    return hybrid(hf, gated({**hf, "intermediate_size": size}), names=LFM2_NAMES)


def hybrid(hf: Mapping[str, Any], feed_forward: MLPSpec | list[Any], **differences: Any) -> StackSpec:
    """With convolutions where `layer_types`, or `full_attn_idxs` of layers that attend, says so. Raises ModelError for other kinds."""
    attending, layers = hf.get("full_attn_idxs"), range(hf["num_hidden_layers"])
    kinds = hf.get("layer_types") or [FULL if attending is None or index in attending else CONV for index in layers]
    if unknown := sorted({*kinds} - {FULL, CONV}):
        raise ModelError(f"config.json: layer_types has {', '.join(unknown)}, which is not supported here (known: {FULL}, {CONV})")
    conv = ShortConvSpec(size=hf["hidden_size"], width=hf["conv_L_cache"], bias=bool(hf["conv_bias"]))
    hf = {**hf, "rms_norm_eps": hf["norm_eps"]}
    mixers = [conv if kind == CONV else None for kind in kinds]
    return decoder(hf, attention={"qk_norm": qk_norm(hf)}, mixers=mixers, feed_forward=feed_forward, naming=LFM2_NAMING, **differences)


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"tie_embedding": "tie_word_embeddings", "block_ff_dim": "intermediate_size"}
ARCHITECTURE = Architecture(stack=stack, other_names=OTHER_NAMES, defaults=LFM2_DEFAULTS, values=LFM2_VALUES, theta=1e6, end_token=2)
