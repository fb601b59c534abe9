"""Command R: attention and feed-forward part beside each other behind one norm without bias, neighbours turn, logits are scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMES, VALUES, biased, decoder, layer_norm, without
from ...hf_values import FLAG, NULL, POSITIVE
from ...rope import RopeConfig
from ...stack import StackSpec
from .. import Architecture

COHERE_DEFAULTS = without(DEFAULTS, "rms_norm_eps", "head_dim") | {
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.0625,
    "attention_bias": False,
    "tie_word_embeddings": True,
}
COHERE_VALUES = VALUES | {"layer_norm_eps": POSITIVE, "logit_scale": POSITIVE | NULL, "use_qk_norm": FLAG | NULL}
BESIDE = replace(NAMES, mlp_norm="")


def stack(hf: Mapping[str, Any], **more: Any) -> StackSpec:
    """`more`: arguments of `decoder`."""
    head_dim = hf["hidden_size"] // hf["num_attention_heads"]
    norm = layer_norm(hf, "layer_norm_eps", bias=False)
    attention = {**biased(hf), "rope": RopeConfig.from_hf(hf, head_dim, interleaved=True)}
    if hf.get("use_qk_norm"):
        attention |= {"qk_norm": norm, "qk_norm_over": "own"}
    scale = 1.0 if hf["logit_scale"] is None else float(hf["logit_scale"])
    return decoder(hf, attention=attention, names=BESIDE, norm=norm, parallel=True, logits_scale=scale, **more)


ARCHITECTURE = Architecture(
    stack=stack, defaults=COHERE_DEFAULTS | {"use_qk_norm": False}, values=COHERE_VALUES, theta=5e5, end_token=255001
)
