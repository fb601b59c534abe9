"""The "new" architecture of gte (gte-en-v1.5, gte-multilingual, snowflake-arctic-embed-m-v2): BERT's order with rotation and a gated
feed-forward part (arXiv 2407.19669).

transformers has no code for it, and the Python files that come with its models are not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from ...encoder import DEFAULTS, VALUES, encoder
from ...hf_values import FLAG, POSITIVE, TEXT
from ...names import Names, Naming, Split
from ...rope import RopeConfig, rope_of
from ...stack import MLPSpec, StackSpec
from .. import Architecture

NAMES = Names(
    words="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    types="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    layer="encoder.layer.{}",
    qkv=("attention.qkv_proj",),
    attention_out="attention.o_proj",
    attention_norm="attn_ln",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    mlp_norm="mlp_ln",
)
#: Its one layer for both has what is multiplied before what goes through the activation.
NAMING = Naming(("new.",), splits={".mlp.up_gate_proj.": Split((".mlp.up_proj.", ".mlp.gate_proj."))})
#: Switches and the only value of each that we compute.
FIXED: dict[str, Any] = {"layer_norm_type": "layer_norm", "pack_qkv": True, "logn_attention_scale": False}
MORE_DEFAULTS = {"max_position_embeddings": 2048, "position_embedding_type": "rope", "rope_theta": 10000.0, "type_vocab_size": 1, **FIXED}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    for key, value in FIXED.items():
        if hf[key] != value:
            raise ModelError(f"config.json: {key} {hf[key]!r} is not supported for new (known: {value!r})")
    kind = hf["position_embedding_type"]
    if kind not in ("rope", "absolute"):
        raise ModelError(f"config.json: position_embedding_type {kind!r} is not supported for new (known: rope, absolute)")
    return encoder(
        hf,
        NAMING,
        rope=_rope(hf) if kind == "rope" else None,
        mlp=MLPSpec(size=hf["intermediate_size"], activation=hf["hidden_act"], down_bias=True),
        names=NAMES,
        num_positions=hf["max_position_embeddings"] if kind == "absolute" else 0,
        num_token_types=hf["type_vocab_size"],
    )


def _rope(hf: Mapping[str, Any]) -> RopeConfig:
    """Its scaling by NTK (kexue.fm/archives/9706): a base `factor` times as large, and frequencies divided by factor^(2 / head size)."""
    head_dim = hf["hidden_size"] // hf["num_attention_heads"]
    scaling = rope_of(hf)
    if (scaling.get("rope_type") or scaling.get("type")) != "ntk":
        return RopeConfig.from_hf(hf, head_dim)
    factor, mixed = scaling.get("factor"), scaling.get("mixed_b")
    if mixed is not None or not factor:
        raise ModelError(f"config.json: rope scaling 'ntk' needs a factor and no mixed_b, not {dict(scaling)}")
    linear = {"rope_type": "linear", "factor": factor ** (2 / head_dim), "rope_theta": hf["rope_theta"] * factor}
    return RopeConfig.from_hf({**hf, "rope_scaling": None, "rope_parameters": linear}, head_dim)


ARCHITECTURE = Architecture(
    stack=stack,
    defaults=DEFAULTS | MORE_DEFAULTS,
    values=VALUES
    | {
        **dict.fromkeys(("layer_norm_type", "position_embedding_type"), TEXT),
        **dict.fromkeys(("pack_qkv", "logn_attention_scale"), FLAG),
        "rope_theta": POSITIVE,
    },
    is_encoder=True,
)
