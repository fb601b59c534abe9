"""Falcon: parts beside each other behind one norm (7 B), two (40 B), or one behind the other (RW, with biases by distance)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...alibi import slopes
from ...decoder import DEFAULTS, VALUES, by_head, decoder, layer_norm, plain, without
from ...hf_values import COUNT, FLAG, NULL, POSITIVE, TEXT
from ...names import Naming
from ...stack import StackSpec
from .. import Architecture
from .bloom import NAMES, NAMES_OF_PIECES

FLAGS = {"alibi": False, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True, "bias": False}
FALCON_DEFAULTS = without(DEFAULTS, "intermediate_size", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps") | {
    "vocab_size": 65024,
    "hidden_size": 4544,
    "num_attention_heads": 71,
    "layer_norm_epsilon": 1e-5,
    "activation": "gelu",
    "tie_word_embeddings": True,
    **FLAGS,
}
FALCON_VALUES = {key: kind for key, kind in VALUES.items() if key in FALCON_DEFAULTS} | {
    **dict.fromkeys(("num_kv_heads", "ffn_hidden_size", "num_ln_in_parallel_attn"), COUNT | NULL),
    **dict.fromkeys(FLAGS, FLAG),
    "layer_norm_epsilon": POSITIVE,
    "activation": TEXT,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    heads, new, bias = hf["num_attention_heads"], hf["new_decoder_architecture"], hf["bias"]
    if new and not hf["parallel_attn"]:
        raise ModelError("config.json: new_decoder_architecture without parallel_attn is not supported for falcon")
    one_norm = not new or hf.get("num_ln_in_parallel_attn") == 1
    kv_heads = hf.get("num_kv_heads") or heads if new or not hf["multi_query"] else 1
    attention: dict[str, Any] = {"qkv_bias": bias, "out_bias": bias}
    if hf["alibi"]:
        scale = (hf["hidden_size"] // heads) ** -0.5  # of the biases, too
        attention |= {"rope": None, "slopes": tuple(scale * slope for slope in slopes(heads))}
    names = replace(NAMES, embedding_norm="")
    if not one_norm:
        names = replace(names, attention_norm="ln_attn", mlp_norm="ln_mlp")
    elif hf["parallel_attn"]:
        names = replace(names, mlp_norm="")
    made = decoder(
        {**hf, "num_key_value_heads": kv_heads, "head_dim": None},
        attention=attention,
        feed_forward=plain(hf.get("ffn_hidden_size") or 4 * hf["hidden_size"], hf["activation"], bias=bias),
        names=names,
        norm=layer_norm(hf),
        parallel=hf["parallel_attn"],
    )
    splits = {"self_attention.query_key_value.": by_head(made, NAMES_OF_PIECES)}
    return replace(made, naming=Naming(("transformer.",), splits=splits))


ARCHITECTURE = Architecture(stack=stack, defaults=FALCON_DEFAULTS, values=FALCON_VALUES, theta=1e4, end_token=11)
