"""NomicBERT (nomic-embed-text): BERT's order with rotary positions, a gated feed-forward and hardly a bias (arXiv 2402.01613).

config.json has GPT-2's names in the model's first releases and BERT's in transformers 5; the tensors were named anew likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....errors import ModelError
from ...encoder import DEFAULTS, VALUES, encoder
from ...hf_values import COUNT, FLAG, LAYERS, NULL, NUMBER, POSITIVE, TEXT, Kind
from ...names import Names, Naming, Split
from ...rope import RopeConfig
from ...stack import MLPSpec, StackSpec
from .. import Architecture

NAMES = Names(
    words="embeddings.word_embeddings",
    types="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    layer="layers.{}",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_out="self_attn.o_proj",
    attention_norm="post_attention_layernorm",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    mlp_norm="post_mlp_layernorm",
)
NAMING = Naming(
    ("nomic_bert.", "bert."),
    {
        "encoder.layers.": "layers.",
        "emb_ln.": "embeddings.LayerNorm.",
        ".attn.out_proj.": ".self_attn.o_proj.",
        ".mlp.fc11.": ".mlp.up_proj.",
        ".mlp.fc12.": ".mlp.gate_proj.",
        ".mlp.fc2.": ".mlp.down_proj.",
        ".norm1.": ".post_attention_layernorm.",
        ".norm2.": ".post_mlp_layernorm.",
    },
    splits={".attn.Wqkv.": Split((".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."))},
)
GATED = {"swiglu": "silu", "geglu": "gelu"}
#: Switches of the first releases' config.json and the only value of each that we compute; absent is that value.
FIXED: dict[str, Any] = {
    "prenorm": False,
    "use_rms_norm": False,
    "causal": False,
    "parallel_block": False,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
}
MORE_VALUES = {
    "head_dim": COUNT | NULL,
    **dict.fromkeys(("n_embd", "n_head", "n_positions"), COUNT),
    "n_layer": LAYERS,
    "n_inner": COUNT | NULL,
    "activation_function": TEXT,
    "rotary_emb_base": POSITIVE,
    "rotary_emb_fraction": NUMBER,
    **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "attention_bias", "mlp_bias"), FLAG),
    "layer_norm_epsilon": POSITIVE,
    "moe_every_n_layers": Kind("a whole number", lambda value: type(value) is int) | NULL,
    "rope_theta": POSITIVE | NULL,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    hf = modern(hf) if "n_embd" in hf else hf
    head_dim = hf["hidden_size"] // hf["num_attention_heads"]
    if (hf.get("head_dim") or head_dim) != head_dim:
        raise ModelError(f"config.json: head_dim {hf['head_dim']} is not supported for nomic_bert (known: {head_dim}, of its sizes)")
    activation, bias = hf.get("hidden_act", "silu"), bool(hf.get("mlp_bias", False))
    return encoder(
        hf,
        NAMING,
        bias=bool(hf.get("attention_bias", False)),
        rope=RopeConfig.from_hf({"rope_theta": 1000.0, **hf}, head_dim),
        mlp=MLPSpec(size=hf["intermediate_size"], activation=activation, bias=bias),
        names=NAMES,
        num_token_types=hf.get("type_vocab_size", 2),
    )


def modern(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The first releases' config.json in the names of transformers 5. Raises ModelError for variants that we do not compute."""
    for key, value in FIXED.items():
        if (hf.get(key) or None) != (value or None):
            raise ModelError(f"config.json: {key} {hf[key]!r} is not supported for nomic_bert (known: {value!r})")
    if (hf.get("moe_every_n_layers") or 0) > 0:
        raise ModelError("config.json: nomic_bert with mixtures of experts (moe_every_n_layers) is not supported")
    if hf["activation_function"] not in GATED:
        raise ModelError(f"activation {hf['activation_function']!r} is not supported for nomic_bert (known: {', '.join(GATED)})")
    if not hf["rotary_emb_fraction"]:
        raise ModelError("config.json: nomic_bert with learned positions (rotary_emb_fraction 0) is not supported")
    if hf["mlp_fc1_bias"] != hf["mlp_fc2_bias"]:
        raise ModelError("config.json: mlp_fc1_bias and mlp_fc2_bias differ, which is not supported")
    hidden = hf["n_embd"]
    return {
        **hf,
        "hidden_size": hidden,
        "num_attention_heads": hf["n_head"],
        "num_hidden_layers": hf["n_layer"],
        "intermediate_size": hf.get("n_inner") or 4 * hidden,
        "max_position_embeddings": hf["n_positions"],
        "hidden_act": GATED[hf["activation_function"]],
        "layer_norm_eps": hf.get("layer_norm_epsilon", 1e-12),
        "attention_bias": hf["qkv_proj_bias"],
        "mlp_bias": hf["mlp_fc1_bias"],
        "rope_theta": hf["rotary_emb_base"],
        "partial_rotary_factor": hf["rotary_emb_fraction"],
    }


ARCHITECTURE = Architecture(
    stack=stack,
    defaults=DEFAULTS | {"vocab_size": 30528, "hidden_act": "silu", "max_position_embeddings": 2048},
    values=VALUES | MORE_VALUES,
    is_encoder=True,
    theta=1e3,
    old_names="n_embd",
)
