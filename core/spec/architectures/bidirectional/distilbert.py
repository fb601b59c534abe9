"""DistilBERT: BERT's layers without token types, under names of its own (arXiv 1910.01108)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...encoder import VALUES, learned
from ...hf_values import COUNT, FLAG, LAYERS, TEXT
from ...names import Names
from ...stack import ClassifierSpec, StackSpec
from .. import Architecture

NAMES = Names(
    words="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    embedding_norm="embeddings.LayerNorm",
    layer="transformer.layer.{}",
    qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    attention_out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up=("ffn.lin1",),
    down="ffn.lin2",
    mlp_norm="output_layer_norm",
)
#: Its own names of sizes, and BERT's.
SIZES = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "activation": "hidden_act",
}
OTHER_NAMES = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
DEFAULTS = {
    "vocab_size": 30522,
    "dim": 768,
    "hidden_dim": 3072,
    "n_layers": 6,
    "n_heads": 12,
    "activation": "gelu",
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
MORE_VALUES = {
    **dict.fromkeys(("dim", "hidden_dim", "n_heads"), COUNT),
    "n_layers": LAYERS,
    "activation": TEXT,
    "sinusoidal_pos_embds": FLAG,  # the table is in the checkpoint either way
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    bert = {**hf, **{name: hf[own] for own, name in SIZES.items()}, "type_vocab_size": 0, "layer_norm_eps": 1e-12}
    head = ClassifierSpec(out="classifier", dense="pre_classifier", activation="relu")
    return learned(bert, "distilbert.", names=NAMES, classifier=head)


ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES | MORE_VALUES, is_encoder=True, other_names=OTHER_NAMES)
