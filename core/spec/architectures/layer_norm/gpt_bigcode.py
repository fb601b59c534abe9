"""GPT-BigCode (StarCoder, SantaCoder): GPT-2 whose query heads share one key and one value; matrices are stored as in Llama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import by_head, decoder, layer_norm, plain
from ...hf_values import FLAG
from ...names import Naming, Split
from ...stack import StackSpec
from .. import Architecture
from .gpt2 import DEFAULTS, NAMES, OTHER_NAMES, VALUES, llamas

BIGCODE_DEFAULTS = {key: value for key, value in DEFAULTS.items() if not key.startswith(("scale_attn_by", "add_"))} | {
    "activation_function": "gelu_pytorch_tanh",
    "multi_query": True,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    hf = {**llamas(hf), "num_key_value_heads": 1 if hf["multi_query"] else hf["n_head"]}
    scale = (hf["n_embd"] // hf["n_head"]) ** -0.5 if hf["scale_attn_weights"] else 1.0
    made = decoder(
        hf,
        attention={"rope": None, "scale": scale, "qkv_bias": True, "out_bias": True},
        feed_forward=plain(hf["n_inner"] or 4 * hf["n_embd"], hf["activation_function"]),
        names=NAMES,
        norm=layer_norm(hf),
        num_positions=hf["n_positions"],
    )
    splits: dict[str, Split] = {"attn.c_attn.": by_head(made, ("attn.q.", "attn.k.", "attn.v."))}
    return replace(made, naming=Naming(("transformer.",), splits=splits, buffers=(".attn.bias", ".attn.masked_bias")))


ARCHITECTURE = Architecture(
    stack=stack, other_names=OTHER_NAMES, defaults=BIGCODE_DEFAULTS, values=VALUES | {"multi_query": FLAG}, end_token=50256
)
