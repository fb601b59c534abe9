"""BLOOM: biases by distance (ALiBi) in place of positions, embeddings behind a norm, biases everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...alibi import slopes
from ...decoder import by_head, decoder, layer_norm, plain, ungrouped
from ...hf_values import COUNT, DTYPE, FLAG, LAYERS, NULL, POSITIVE
from ...names import Names, Naming
from ...stack import StackSpec
from .. import Architecture

NAMES = Names(
    words="transformer.word_embeddings",
    embedding_norm="transformer.word_embeddings_layernorm",
    layer="transformer.h.{}",
    attention_norm="input_layernorm",
    qkv=("self_attention.q", "self_attention.k", "self_attention.v"),
    attention_out="self_attention.dense",
    mlp_norm="post_attention_layernorm",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    final_norm="transformer.ln_f",
    head="lm_head",
)
DEFAULTS = {
    "vocab_size": 250880,
    "hidden_size": 64,
    "n_layer": 2,
    "n_head": 8,
    "layer_norm_epsilon": 1e-5,
    "apply_residual_connection_post_layernorm": False,
    "tie_word_embeddings": True,
}
VALUES = {
    **dict.fromkeys(("vocab_size", "hidden_size", "n_head"), COUNT),
    "n_layer": LAYERS,
    "layer_norm_epsilon": POSITIVE,
    **dict.fromkeys(("apply_residual_connection_post_layernorm", "tie_word_embeddings"), FLAG),
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    hidden = hf.get("n_embed") or hf["hidden_size"]
    made = decoder(
        {**ungrouped(hf), "hidden_size": hidden, "num_attention_heads": hf["n_head"], "num_hidden_layers": hf["n_layer"]},
        attention={"rope": None, "slopes": slopes(hf["n_head"]), "qkv_bias": True, "out_bias": True},
        feed_forward=plain(4 * hidden, "gelu_pytorch_tanh"),
        names=NAMES,
        norm=layer_norm(hf),
        adds_to_normed=hf["apply_residual_connection_post_layernorm"],
    )
    splits = {"self_attention.query_key_value.": by_head(made, NAMES_OF_PIECES)}
    return replace(made, naming=Naming(("transformer.",), splits=splits))


NAMES_OF_PIECES = ("self_attention.q.", "self_attention.k.", "self_attention.v.")
#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
ARCHITECTURE = Architecture(stack=stack, other_names=OTHER_NAMES, defaults=DEFAULTS, values=VALUES, end_token=2)
