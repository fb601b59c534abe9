"""OPT: learned positions that begin with the third row, norms before the parts, ReLU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from ...decoder import decoder, layer_norm, plain, ungrouped
from ...hf_values import COUNT, DTYPE, FLAG, LAYERS, NULL, TEXT
from ...names import Names, Naming
from ...stack import StackSpec
from .. import Architecture

NAMES = Names(
    words="model.decoder.embed_tokens",
    positions="model.decoder.embed_positions",
    layer="model.decoder.layers.{}",
    attention_norm="self_attn_layer_norm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.out_proj",
    mlp_norm="final_layer_norm",
    up=("fc1",),
    down="fc2",
    final_norm="model.decoder.final_layer_norm",
    head="lm_head",
)
DEFAULTS = {
    "vocab_size": 50272,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "ffn_dim": 3072,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "activation_function": "relu",
    "enable_bias": True,
    "tie_word_embeddings": True,
}
VALUES = {
    **dict.fromkeys(("vocab_size", "hidden_size", "ffn_dim", "max_position_embeddings", "num_attention_heads"), COUNT),
    "num_hidden_layers": LAYERS,
    "word_embed_proj_dim": COUNT | NULL,
    "activation_function": TEXT,
    **dict.fromkeys(("enable_bias", "tie_word_embeddings", "do_layer_norm_before", "layer_norm_elementwise_affine"), FLAG),
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}
#: The only value of each that we compute; absent is that value. OPT-350m is made otherwise.
FIXED = {"do_layer_norm_before": True, "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False}
#: Rows of the table before that of a text's first token.
OFFSET = 2


def stack(hf: Mapping[str, Any]) -> StackSpec:
    for key, value in {**FIXED, "word_embed_proj_dim": hf["hidden_size"]}.items():
        if hf.get(key) not in (None, value):
            raise ModelError(f"config.json: {key} {hf[key]!r} is not supported for opt (known: {value!r}); try --model-impl transformers")
    bias = hf["enable_bias"]
    return decoder(
        ungrouped(hf),
        attention={"rope": None, "qkv_bias": bias, "out_bias": bias},
        feed_forward=plain(hf["ffn_dim"], hf["activation_function"], bias=bias),
        names=NAMES,
        naming=Naming(("model.",)),
        norm=layer_norm({"eps": 1e-5}, "eps"),
        num_positions=hf["max_position_embeddings"] + OFFSET,
        position_offset=OFFSET,
    )


ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES, end_token=2)
