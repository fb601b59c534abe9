"""The text tower of CLIP (arXiv 2103.00020): tokens see those before them, and the last one stands for the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...encoder import encoder
from ...hf_values import COUNT, DTYPE, LAYERS, NULL, POSITIVE, TEXT, WHOLE, Kind
from ...names import Names, Naming
from ...stack import MLPSpec, NormSpec, StackSpec
from ...vision import BESIDE
from .. import Architecture

NAMES = Names(
    words="text_model.embeddings.token_embedding",
    positions="text_model.embeddings.position_embedding",
    layer="text_model.encoder.layers.{}",
    attention_norm="layer_norm1",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.out_proj",
    mlp_norm="layer_norm2",
    up=("mlp.fc1",),
    down="mlp.fc2",
    final_norm="text_model.final_layer_norm",
)
VALUES: dict[str, Kind] = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "max_position_embeddings"), COUNT),
    "num_hidden_layers": LAYERS,
    "layer_norm_eps": POSITIVE,
    "hidden_act": TEXT,
    "pad_token_id": WHOLE | NULL,
    **dict.fromkeys(("projection_dim", "projection_size"), COUNT | NULL),
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}


def text_tower(hf: Mapping[str, Any], *, causal: bool) -> StackSpec:
    """Pre-norm layers with learned positions. `causal`: tokens see themselves and those before them."""
    return encoder(
        hf,
        Naming(("text_model.",), buffers=("position_ids",), media=BESIDE),
        mlp=MLPSpec(size=hf["intermediate_size"], activation=hf["hidden_act"], gated=False, bias=True),
        names=NAMES,
        norm=NormSpec(eps=hf["layer_norm_eps"], centered=True, bias=True),
        pre_norm=True,
        num_positions=hf["max_position_embeddings"],
        causal=causal,
        classifier=None,
    )


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return text_tower(hf, causal=True)


DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES, is_encoder=True)
