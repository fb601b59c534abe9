"""BERT and what is shaped like it (MiniLM, bge, e5, gte): post-norm, learned positions, token types, plain feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infer.kernels.ops import Ops

from ..errors import ModelError
from ..layers.classifier import Classifier
from ..weights.renamed import Naming
from .encoder import Encoder, EncoderConfig, Names

NAMES = Names(
    words="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    types="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    layer="encoder.layer.{}",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    attention_out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up=("intermediate.dense",),
    down="output.dense",
    mlp_norm="output.LayerNorm",
)


def bert_config(hf: Mapping[str, Any], prefix: str, **differences: Any) -> EncoderConfig:
    """BERT's reading of config.json with `differences` on top. Raises KeyError for what is missing, ModelError for what we lack."""
    kind = hf.get("position_embedding_type") or "absolute"
    if kind != "absolute":
        raise ModelError(f"config.json: position_embedding_type {kind!r} is not supported (known: absolute)")
    if hf.get("is_decoder"):
        raise ModelError("config.json: is_decoder is set; an encoder that attends to earlier tokens alone is not supported")
    values: dict[str, Any] = {
        "names": NAMES,
        "naming": Naming((prefix,)),
        "vocab_size": hf["vocab_size"],
        "hidden_size": hf["hidden_size"],
        "intermediate_size": hf["intermediate_size"],
        "num_layers": hf["num_hidden_layers"],
        "num_heads": hf["num_attention_heads"],
        "norm_eps": hf.get("layer_norm_eps", 1e-12),
        "activation": hf.get("hidden_act", "gelu"),
        "num_positions": hf["max_position_embeddings"],
        "num_token_types": hf.get("type_vocab_size", 2),
    }
    return EncoderConfig(**{**values, **differences})


class Model(Encoder):
    def __init__(self, hf: Mapping[str, Any], ops: Ops, *, labels: int = 0) -> None:
        config = bert_config(hf, "bert.")
        head = Classifier(ops, config.hidden_size, labels, out="classifier", dense="pooler.dense") if labels else None
        super().__init__(config, ops, head)
