"""StableLM: Llama with norms of mean and variance, a quarter of a head that turns, and in larger models parts beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMES, VALUES, decoder, layer_norm, without
from ...hf_values import FLAG, POSITIVE
from ...stack import StackSpec
from .. import Architecture

FLAGS = ("use_qkv_bias", "qk_layernorm", "use_parallel_residual")
STABLELM_DEFAULTS = without(DEFAULTS, "head_dim", "rms_norm_eps") | {
    "vocab_size": 50304,
    "intermediate_size": 6912,
    "hidden_size": 2560,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "layer_norm_eps": 1e-5,
    **dict.fromkeys(FLAGS, False),
}
STABLELM_NAMES = replace(NAMES, q_norm="self_attn.q_layernorm.norms.{}", k_norm="self_attn.k_layernorm.norms.{}")


def stack(hf: Mapping[str, Any]) -> StackSpec:
    parallel, attention = hf["use_parallel_residual"], {"qkv_bias": hf["use_qkv_bias"]}
    if hf["qk_layernorm"]:
        attention |= {"qk_norm": layer_norm(hf, "layer_norm_eps", bias=False), "qk_norm_over": "own"}
    names = replace(STABLELM_NAMES, mlp_norm="" if parallel else NAMES.mlp_norm)
    return decoder(hf, attention=attention, names=names, norm=layer_norm(hf, "layer_norm_eps"), parallel=parallel)


ARCHITECTURE = Architecture(
    stack=stack,
    defaults=STABLELM_DEFAULTS,
    values=VALUES | {"layer_norm_eps": POSITIVE} | dict.fromkeys(FLAGS, FLAG),
    theta=1e4,
    partial=0.25,
    end_token=0,
)
