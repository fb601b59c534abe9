"""ALBERT: BERT with a smaller embedding that is projected, and layers that share their weights in groups (arXiv 1909.11942)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from ...encoder import DEFAULTS, VALUES, learned
from ...hf_values import COUNT, LAYERS
from ...names import Names
from ...stack import ClassifierSpec, StackSpec
from .. import Architecture

NAMES = Names(
    words="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    types="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    embedding_projection="encoder.embedding_hidden_mapping_in",
    layer="encoder.albert_layer_groups.{}.albert_layers.0",
    qkv=("attention.query", "attention.key", "attention.value"),
    attention_out="attention.dense",
    attention_norm="attention.LayerNorm",
    up=("ffn",),
    down="ffn_output",
    mlp_norm="full_layer_layer_norm",
)
SIZES = {
    "vocab_size": 30000,
    "embedding_size": 128,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_attention_heads": 64,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
    "hidden_act": "gelu_new",
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    layers, groups = hf["num_hidden_layers"], hf["num_hidden_groups"]
    if hf["inner_group_num"] != 1:
        raise ModelError(f"config.json: inner_group_num {hf['inner_group_num']} is not supported for albert (known: 1)")
    if groups > layers:
        raise ModelError(f"config.json: num_hidden_groups {groups} is more than the {layers} layers that share them")
    return learned(
        {**hf, "num_hidden_layers": groups},
        "albert.",
        names=NAMES,
        embedding_size=hf["embedding_size"],
        passes=tuple(int(layer / (layers / groups)) for layer in range(layers)),
        classifier=ClassifierSpec(out="classifier", dense="pooler"),
    )


VALUES_OF_GROUPS = {**dict.fromkeys(("embedding_size", "inner_group_num"), COUNT), "num_hidden_groups": LAYERS}
ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS | SIZES, values=VALUES | VALUES_OF_GROUPS, is_encoder=True)
