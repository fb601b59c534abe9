"""OPT: learned positions that begin with the third row, norms before the parts, ReLU. OPT-350m has norms behind the parts, and an
embedding of fewer features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import VariantError
from ...decoder import decoder, layer_norm, plain, ungrouped
from ...hf_values import COUNT, DTYPE, FLAG, LAYERS, NULL, TEXT
from ...names import Names, Naming
from ...stack import StackSpec
from .. import Architecture

NAMES = Names(
    words="model.decoder.embed_tokens",
    positions="model.decoder.embed_positions",
    embedding_projection="model.decoder.project_in",
    output_projection="model.decoder.project_out",
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
    **dict.fromkeys(
        ("enable_bias", "tie_word_embeddings", "do_layer_norm_before", "layer_norm_elementwise_affine", "_remove_final_layer_norm"), FLAG
    ),
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}
#: Rows of the table before that of a text's first token.
OFFSET = 2


def stack(hf: Mapping[str, Any]) -> StackSpec:
    if not hf.get("layer_norm_elementwise_affine", True):
        raise VariantError("config.json: opt whose norms have no weights (layer_norm_elementwise_affine false) is not supported")
    bias, before = hf["enable_bias"], hf.get("do_layer_norm_before", True)
    embedded = hf.get("word_embed_proj_dim") or hf["hidden_size"]
    names = NAMES if before and not hf.get("_remove_final_layer_norm") else replace(NAMES, final_norm="")
    return decoder(
        ungrouped(hf),
        attention={"rope": None, "qkv_bias": bias, "out_bias": bias},
        feed_forward=plain(hf["ffn_dim"], hf["activation_function"], bias=bias),
        names=names,
        naming=Naming(("model.",)),
        norm=layer_norm({"eps": 1e-5}, "eps"),
        num_positions=hf["max_position_embeddings"] + OFFSET,
        position_offset=OFFSET,
        pre_norm=before,
        **({} if embedded == hf["hidden_size"] else {"embedding_size": embedded, "projects_back": True}),
    )


ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES, end_token=2)
