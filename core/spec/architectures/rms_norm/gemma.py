"""Gemma: Llama whose norms multiply by one more than they store, with scaled embeddings and a gate of GELU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import DEFAULTS, VALUES, biased, decoder, gated
from ...stack import NormSpec, StackSpec
from .. import Architecture

GEMMA_DEFAULTS = DEFAULTS | {
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    norm, scale = NormSpec(eps=hf["rms_norm_eps"], offset=1.0), hf["hidden_size"] ** 0.5
    # First releases say "gelu", and were trained with its tanh form.
    mlp = gated({**hf, "hidden_act": "gelu_pytorch_tanh"} if hf["hidden_act"] == "gelu" else hf)
    return decoder(hf, attention=biased(hf), feed_forward=mlp, norm=norm, embedding_scale=scale)


ARCHITECTURE = Architecture(
    stack=stack, defaults=GEMMA_DEFAULTS, values=VALUES, theta=1e4, end_token=1, unsafe_dtypes=frozenset({"float16"})
)
