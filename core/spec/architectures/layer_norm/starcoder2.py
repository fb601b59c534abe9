"""StarCoder2: Llama with norms of mean and variance, biases everywhere and a plain feed-forward part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMES, VALUES, decoder, layer_norm, plain, without
from ...hf_values import FLAG, POSITIVE
from ...stack import StackSpec
from .. import Architecture

STARCODER2_DEFAULTS = without(DEFAULTS, "head_dim", "rms_norm_eps") | {
    "vocab_size": 49152,
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "num_hidden_layers": 30,
    "num_attention_heads": 24,
    "num_key_value_heads": 2,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 4096,
    "norm_epsilon": 1e-5,
    "sliding_window": None,
    "use_bias": True,
    "tie_word_embeddings": True,
}
STARCODER2_NAMES = replace(NAMES, up=("mlp.c_fc",), down="mlp.c_proj")


def stack(hf: Mapping[str, Any]) -> StackSpec:
    bias = hf["use_bias"]
    return decoder(
        hf,
        attention={"qkv_bias": bias, "out_bias": bias},
        windows=(hf["sliding_window"],) * hf["num_hidden_layers"],
        feed_forward=plain(hf["intermediate_size"], hf["hidden_act"], bias=bias),
        names=STARCODER2_NAMES,
        norm=layer_norm(hf, "norm_epsilon"),
    )


ARCHITECTURE = Architecture(
    stack=stack, defaults=STARCODER2_DEFAULTS, values=VALUES | {"norm_epsilon": POSITIVE, "use_bias": FLAG}, theta=1e4, end_token=50256
)
