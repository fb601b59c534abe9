"""GPT-2: learned positions, LayerNorms, plain feed-forward with biases everywhere, one fused layer of queries, keys and values.

config.json and tensors have names of their own, and the matrices are stored [in, out].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from ...decoder import decoder, layer_norm, plain, ungrouped
from ...hf_values import COUNT, DTYPE, FLAG, LAYERS, NULL, POSITIVE, TEXT
from ...names import Names, Naming, Split
from ...stack import StackSpec
from .. import Architecture

NAMES = Names(
    words="transformer.wte",
    positions="transformer.wpe",
    layer="transformer.h.{}",
    attention_norm="ln_1",
    qkv=("attn.q", "attn.k", "attn.v"),
    attention_out="attn.c_proj",
    mlp_norm="ln_2",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    final_norm="transformer.ln_f",
    head="lm_head",
)
NAMING = Naming(
    ("transformer.",),
    transposed=(".c_attn.weight", ".c_proj.weight", ".c_fc.weight"),
    splits={"attn.c_attn.": Split(("attn.q.", "attn.k.", "attn.v."))},
    buffers=(".attn.bias", ".attn.masked_bias"),
)
DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
VALUES = {
    **dict.fromkeys(("vocab_size", "n_positions", "n_embd", "n_head"), COUNT),
    "n_layer": LAYERS,
    "n_inner": COUNT | NULL,
    "activation_function": TEXT,
    "layer_norm_epsilon": POSITIVE,
    **dict.fromkeys(("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention", "tie_word_embeddings"), FLAG),
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    if hf["add_cross_attention"]:
        raise ModelError("config.json: add_cross_attention is set; a decoder that attends to an encoder is not supported")
    hf = llamas(hf)
    scale = (hf["hidden_size"] // hf["num_attention_heads"]) ** -0.5 if hf["scale_attn_weights"] else 1.0
    by_layer = [{"scale": scale / number} for number in range(1, hf["n_layer"] + 1)]
    return decoder(
        hf,
        attention={"rope": None, "scale": scale, "qkv_bias": True, "out_bias": True},
        by_layer=by_layer if hf["scale_attn_by_inverse_layer_idx"] else (),
        feed_forward=plain(hf["n_inner"] or 4 * hf["n_embd"], hf["activation_function"]),
        names=NAMES,
        naming=NAMING,
        norm=layer_norm(hf),
        num_positions=hf["n_positions"],
    )


def llamas(hf: Mapping[str, Any]) -> dict[str, Any]:
    """GPT-2's config.json with Llama's names of sizes beside its own. Raises ModelError where heads cannot share features."""
    if hf["n_embd"] % hf["n_head"]:
        raise ModelError(f"config.json: {hf['n_head']} attention heads cannot share {hf['n_embd']} features")
    return {**ungrouped(hf), "hidden_size": hf["n_embd"], "num_attention_heads": hf["n_head"], "num_hidden_layers": hf["n_layer"]}


OTHER_NAMES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES, other_names=OTHER_NAMES, end_token=50256)
