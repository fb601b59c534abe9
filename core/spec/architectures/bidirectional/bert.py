"""BERT and what is shaped like it (MiniLM, bge, e5, gte): post-norm, learned positions, token types, plain feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...alibi import slopes
from ...encoder import DEFAULTS, NAMES, VALUES, encoder, learned
from ...hf_values import TEXT
from ...names import Naming
from ...stack import MLPSpec, StackSpec
from .. import Architecture


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return _jina(hf) if hf.get("position_embedding_type") == "alibi" else learned(hf, "bert.")


def _jina(hf: Mapping[str, Any]) -> StackSpec:
    """JinaBERT (jina-embeddings-v2; arXiv 2310.19923), which calls itself bert: ALiBi and a gated feed-forward part. transformers
    has no code for it, and the Python files that come with its models are not run."""
    kind = hf.get("feed_forward_type", "original")
    if kind != "geglu":
        raise ModelError(f"config.json: feed_forward_type {kind!r} is not supported with position_embedding_type 'alibi' (known: geglu)")
    return encoder(
        hf,
        Naming(("bert.",)),
        slopes=slopes(hf["num_attention_heads"]),
        mlp=MLPSpec(size=hf["intermediate_size"], activation="gelu", down_bias=True),
        names=replace(NAMES, up=("mlp.gated_layers",), down="mlp.wo", mlp_norm="mlp.layernorm"),
        num_token_types=hf.get("type_vocab_size", 2),
    )


ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES | {"feed_forward_type": TEXT}, is_encoder=True)
