"""ModernBERT: pre-norm, rotary positions, gated feed-forward; most layers see a window only (arXiv 2412.13663)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import FULL, SLIDING, check_kinds
from ...encoder import VALUES, encoder
from ...hf_values import COUNT, FLAG, NULL, POSITIVE, TEXT
from ...names import Names, Naming
from ...rope import RopeConfig
from ...stack import ClassifierSpec, MLPSpec, NormSpec, StackSpec
from .. import Architecture

NAMES = Names(
    words="embeddings.tok_embeddings",
    embedding_norm="embeddings.norm",
    layer="layers.{}",
    qkv=("attn.Wqkv",),
    attention_out="attn.Wo",
    attention_norm="attn_norm",
    up=("mlp.Wi",),
    down="mlp.Wo",
    mlp_norm="mlp_norm",
    final_norm="final_norm",
)
#: Where config.json names no base of rotation.
GLOBAL_THETA, LOCAL_THETA = 160000.0, 10000.0
DEFAULTS = {
    "vocab_size": 50368,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "hidden_activation": "gelu",
    "max_position_embeddings": 8192,
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "local_attention": 128,
    "pad_token_id": 50283,
}
MORE_VALUES = {
    "hidden_activation": TEXT,
    "classifier_activation": TEXT,
    "norm_eps": POSITIVE,
    **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), FLAG),
    **dict.fromkeys(("local_attention", "global_attn_every_n_layers"), COUNT),
    **dict.fromkeys(("global_rope_theta", "local_rope_theta"), POSITIVE | NULL),
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    head_dim = hf["hidden_size"] // hf["num_attention_heads"]
    activation = hf.get("hidden_activation", "gelu")
    return encoder(
        hf,
        Naming(("model.",)),
        bias=bool(hf.get("attention_bias", False)),
        windows=_windows(hf),
        rope=_rope(hf, FULL, hf.get("global_rope_theta") or GLOBAL_THETA, head_dim),
        local_rope=_rope(hf, SLIDING, hf.get("local_rope_theta") or LOCAL_THETA, head_dim),
        mlp=MLPSpec(size=hf["intermediate_size"], activation=activation, bias=bool(hf.get("mlp_bias", False))),
        names=NAMES,
        norm=NormSpec(eps=hf.get("norm_eps", 1e-5), centered=True, bias=bool(hf.get("norm_bias", False))),
        pre_norm=True,
        first_is_normed=True,
        classifier=ClassifierSpec(
            out="classifier",
            dense="head.dense",
            dense_bias=bool(hf.get("classifier_bias", False)),
            activation=hf.get("classifier_activation", "gelu"),
            norm="head.norm",
        ),
    )


def _windows(hf: Mapping[str, Any]) -> tuple[int | None, ...]:
    """`local_attention` counts the tokens on both sides of one; a window of ours begins with the token itself."""
    kinds = hf.get("layer_types")
    if kinds is None:
        every = hf.get("global_attn_every_n_layers", 3)
        kinds = [SLIDING if i % every else FULL for i in range(hf["num_hidden_layers"])]
    check_kinds(kinds)
    window = hf.get("local_attention", 128) // 2 + 1
    return tuple(window if kind == SLIDING else None for kind in kinds)


def _rope(hf: Mapping[str, Any], kind: str, theta: float, head_dim: int) -> RopeConfig:
    """Of one kind of layer: transformers 5 has `rope_parameters` by kind, before there was a base each and one scaling."""
    parameters = hf.get("rope_parameters") or {}
    one = parameters.get(kind) or {}
    merged = {"rope_theta": theta, **one, **(hf.get("rope_scaling") or {})}
    return RopeConfig.from_hf({**hf, "rope_scaling": None, "rope_parameters": merged}, head_dim)


ARCHITECTURE = Architecture(stack=stack, defaults=DEFAULTS, values=VALUES | MORE_VALUES, is_encoder=True, pooling_key="classifier_pooling")
