"""MPT: biases by distance (ALiBi) in place of positions, hardly a bias, queries, keys and values clipped in some models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from ...alibi import mosaic_slopes
from ...decoder import decoder, layer_norm, plain, ungrouped
from ...hf_values import COUNT, DTYPE, FLAG, LAYERS, NULL, POSITIVE
from ...names import Names, Naming, Split
from ...stack import StackSpec
from .. import Architecture

NAMES = Names(
    words="transformer.wte",
    layer="transformer.blocks.{}",
    attention_norm="norm_1",
    qkv=("attn.q", "attn.k", "attn.v"),
    attention_out="attn.out_proj",
    mlp_norm="norm_2",
    up=("ffn.up_proj",),
    down="ffn.down_proj",
    final_norm="transformer.norm_f",
    head="lm_head",
)
NAMING = Naming(("transformer.",), splits={"attn.Wqkv.": Split(("attn.q.", "attn.k.", "attn.v."))})
DEFAULTS = {
    "d_model": 2048,
    "n_heads": 16,
    "n_layers": 24,
    "max_seq_len": 2048,
    "vocab_size": 50368,
    "layer_norm_epsilon": 1e-5,
    "no_bias": True,
    "tie_word_embeddings": True,
}
VALUES = {
    **dict.fromkeys(("d_model", "n_heads", "vocab_size", "max_seq_len"), COUNT),
    "n_layers": LAYERS,
    "layer_norm_epsilon": POSITIVE,
    **dict.fromkeys(("no_bias", "tie_word_embeddings"), FLAG),
    **dict.fromkeys(("dtype", "torch_dtype"), DTYPE | NULL),
}
#: The only value of each part of attn_config that we compute; absent is that value.
FIXED = {"alibi": True, "qk_ln": False, "prefix_lm": False, "attn_type": "multihead_attention"}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    attention, heads, hidden = hf.get("attn_config") or {}, hf["n_heads"], hf["d_model"]
    wrong = [key for key, value in FIXED.items() if attention.get(key, value) != value]
    if wrong or not hf["no_bias"]:
        key = f"attn_config.{wrong[0]}" if wrong else "no_bias"
        raise ModelError(f"config.json: {key} {attention.get(wrong[0]) if wrong else False!r} is not supported for mpt")
    more: dict[str, Any] = {
        "rope": None,
        "slopes": mosaic_slopes(heads, attention.get("alibi_bias_max", 8)),
        "clip": attention.get("clip_qkv"),
    }
    if attention.get("softmax_scale"):
        more["scale"] = attention["softmax_scale"]
    return decoder(
        {**ungrouped(hf), "hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": hf["n_layers"]},
        attention=more,
        feed_forward=plain(4 * hidden, "gelu", bias=False),
        names=NAMES,
        naming=NAMING,
        norm=layer_norm(hf, bias=False),
    )


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_attention_heads": "n_heads", "hidden_size": "d_model", "num_hidden_layers": "n_layers"}
ARCHITECTURE = Architecture(stack=stack, other_names=OTHER_NAMES, defaults=DEFAULTS, values=VALUES)
