"""GPT-J: GPT-2 with rotation of neighbours in place of positions, attention and feed-forward part beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import decoder, layer_norm, plain
from ...hf_values import COUNT
from ...names import Naming
from ...rope import RopeConfig
from ...stack import StackSpec
from .. import Architecture
from .gpt2 import DEFAULTS, NAMES, OTHER_NAMES, VALUES, llamas

KEYS = ("n_inner", "activation_function", "layer_norm_epsilon", "vocab_size")
GPTJ_DEFAULTS = {key: DEFAULTS[key] for key in KEYS} | {
    "vocab_size": 50400,
    "n_positions": 2048,
    "n_embd": 4096,
    "n_layer": 28,
    "n_head": 16,
    "rotary_dim": 64,
    "tie_word_embeddings": False,
}
GPTJ_NAMES = replace(
    NAMES,
    positions="",
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    attention_out="attn.out_proj",
    mlp_norm="",
    up=("mlp.fc_in",),
    down="mlp.fc_out",
)


def stack(hf: Mapping[str, Any]) -> StackSpec:
    hf = llamas(hf)
    head_dim = hf["n_embd"] // hf["n_head"]
    turned = {"max_position_embeddings": hf["n_positions"], "partial_rotary_factor": hf["rotary_dim"] / head_dim}
    return decoder(
        hf,
        attention={"rope": RopeConfig.from_hf(turned, head_dim, interleaved=True)},
        feed_forward=plain(hf["n_inner"] or 4 * hf["n_embd"], hf["activation_function"]),
        names=GPTJ_NAMES,
        naming=Naming(("transformer.",), buffers=(".attn.bias", ".attn.masked_bias", ".attn.embed_positions")),
        norm=layer_norm(hf),
        parallel=True,
        head_bias=True,
    )


ARCHITECTURE = Architecture(
    stack=stack, other_names=OTHER_NAMES, defaults=GPTJ_DEFAULTS, values=VALUES | {"rotary_dim": COUNT}, end_token=50256
)
