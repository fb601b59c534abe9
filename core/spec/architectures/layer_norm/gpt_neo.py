"""GPT-Neo: GPT-2 with scores as they are and a window in every other layer; matrices are stored as in Llama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import check_length, decoder, layer_norm, plain, ungrouped
from ...hf_values import COUNT, DTYPE, FLAG, LAYERS, NULL, POSITIVE, TEXT
from ...names import Naming
from ...stack import StackSpec
from .. import Architecture
from .gpt2 import NAMES

GPT_NEO_DEFAULTS = {
    "vocab_size": 50257,
    "max_position_embeddings": 2048,
    "hidden_size": 2048,
    "num_layers": 24,
    "num_heads": 16,
    "intermediate_size": None,
    "window_size": 256,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "attention_types": [[["global", "local"], 12]],
    "tie_word_embeddings": True,
}
GPT_NEO_VALUES = {
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "hidden_size", "num_heads", "window_size"), COUNT),
    "num_layers": LAYERS,
    "intermediate_size": COUNT | NULL,
    "activation_function": TEXT,
    "layer_norm_epsilon": POSITIVE,
    "tie_word_embeddings": FLAG,
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}
GPT_NEO_NAMES = replace(NAMES, qkv=tuple(f"attn.attention.{one}_proj" for one in "qkv"), attention_out="attn.attention.out_proj")


def stack(hf: Mapping[str, Any]) -> StackSpec:
    kinds = [kind for pattern, times in hf["attention_types"] for _ in range(times) for kind in pattern]
    check_length("attention_types", kinds, hf["num_layers"])
    return decoder(
        {**ungrouped(hf), "num_hidden_layers": hf["num_layers"], "num_attention_heads": hf["num_heads"]},
        attention={"rope": None, "scale": 1.0, "out_bias": True},
        windows=[hf["window_size"] if kind == "local" else None for kind in kinds],
        feed_forward=plain(hf["intermediate_size"] or 4 * hf["hidden_size"], hf["activation_function"]),
        names=GPT_NEO_NAMES,
        naming=Naming(("transformer.",), buffers=(".attention.bias", ".attention.masked_bias")),
        norm=layer_norm(hf),
        num_positions=hf["max_position_embeddings"],
    )


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}
ARCHITECTURE = Architecture(stack=stack, other_names=OTHER_NAMES, defaults=GPT_NEO_DEFAULTS, values=GPT_NEO_VALUES, end_token=50256)
