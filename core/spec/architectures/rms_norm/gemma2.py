"""Gemma 2: norms before and behind each part, caps on scores and logits, a window in every other layer, scaled embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...decoder import DEFAULTS, FULL, SLIDING, VALUES, biased, decoder, windows_of
from ...decoder import NAMES as LLAMA_NAMES
from ...hf_values import NULL, POSITIVE, TEXT
from ...stack import MLPSpec, NormSpec, StackSpec
from .. import Architecture

NAMES = replace(
    LLAMA_NAMES,
    attention_out_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_out_norm="post_feedforward_layernorm",
)
GEMMA2_DEFAULTS = DEFAULTS | {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
del GEMMA2_DEFAULTS["hidden_act"]
GEMMA2_VALUES = VALUES | {
    "hidden_activation": TEXT,
    "query_pre_attn_scalar": POSITIVE,
    **dict.fromkeys(("final_logit_softcapping", "attn_logit_softcapping"), POSITIVE | NULL),
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    kinds = hf.get("layer_types") or [FULL if i % 2 else SLIDING for i in range(hf["num_hidden_layers"])]
    return gemma(hf, kinds, {})


def gemma(
    hf: Mapping[str, Any], kinds: Sequence[str], attention: Mapping[str, Any], by_layer: Sequence[Mapping[str, Any]] = ()
) -> StackSpec:
    """Gemma 2, on top of which Gemma 3 says its differences: kinds of layers, and arguments of `decoder`."""
    if hf.get("use_bidirectional_attention"):
        raise ModelError(f"config.json: use_bidirectional_attention is set, which is not supported for {hf['model_type']}")
    scores = {"scale": hf["query_pre_attn_scalar"] ** -0.5, "soft_cap": hf["attn_logit_softcapping"]}
    return decoder(
        hf,
        attention={**scores, **biased(hf), **attention},
        windows=windows_of(kinds, hf["sliding_window"]),
        by_layer=by_layer,
        feed_forward=MLPSpec(size=hf["intermediate_size"], activation=hf["hidden_activation"]),
        names=NAMES,
        norm=NormSpec(eps=hf["rms_norm_eps"], offset=1.0),
        embedding_scale=hf["hidden_size"] ** 0.5,
        logits_soft_cap=hf["final_logit_softcapping"],
    )


ARCHITECTURE = Architecture(
    stack=stack,
    defaults=GEMMA2_DEFAULTS,
    values=GEMMA2_VALUES,
    theta=1e4,
    end_token=1,
    unsafe_dtypes=frozenset({"float16"}),
)
