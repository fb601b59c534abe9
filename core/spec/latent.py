"""Latent attention (MLA) as config.json describes it, for DeepSeek's models and those like them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import ModelError
from .experts import NAMES as EXPERTS_NAMES
from .experts import VALUES as EXPERTS_VALUES
from .hf_values import COUNT, FLAG, NULL, Kind
from .names import Names
from .rope import RopeConfig
from .stack import LatentSpec, NormSpec

VALUES: dict[str, Kind] = EXPERTS_VALUES | {
    **dict.fromkeys(("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), COUNT),
    **dict.fromkeys(("q_lora_rank", "n_group", "topk_group"), COUNT | NULL),
    "rope_interleave": FLAG | NULL,
}
#: Of the norms of latents, whatever the others' epsilon is.
EPS = 1e-6


def latent_attention(hf: Mapping[str, Any], *, interleaved: bool) -> dict[str, Any]:
    """Every layer's attention, for `decoder`. Raises ModelError for biases of queries that have no latent.

    Args:
        interleaved: features turn with their neighbours.
    """
    bias, query_rank = bool(hf["attention_bias"]), hf["q_lora_rank"]
    if bias and query_rank is None:
        raise ModelError("config.json: attention_bias true is not supported where q_lora_rank is null")
    nope, turned = hf["qk_nope_head_dim"], hf["qk_rope_head_dim"]
    rope = RopeConfig.from_hf(hf, turned, interleaved=interleaved)
    return {
        "num_kv_heads": 1,
        "head_dim": nope + turned,
        "scale": (nope + turned) ** -0.5 * _sharpening(rope),
        "rope": rope,
        "qkv_bias": bias,
        "out_bias": bias,
        "latent": LatentSpec(
            rank=hf["kv_lora_rank"],
            nope_dim=nope,
            rope_dim=turned,
            value_dim=hf["v_head_dim"],
            norm=NormSpec(eps=EPS),
            query_rank=query_rank,
        ),
    }


def names(hf: Mapping[str, Any]) -> Names:
    """Of layers with experts and such attention."""
    queries = "self_attn.q_proj" if hf["q_lora_rank"] is None else "self_attn.q_a_proj"
    return replace(
        EXPERTS_NAMES,
        qkv=(queries, "self_attn.kv_a_proj_with_mqa"),
        q_norm="self_attn.q_a_layernorm",
        k_norm="self_attn.kv_a_layernorm",
        q_up="self_attn.q_b_proj",
        kv_up="self_attn.kv_b_proj",
    )


def _sharpening(rope: RopeConfig) -> float:
    """YaRN's sharpening of whole scores, with features that do not turn: the square of 0.1 mscale_all_dim ln(factor) + 1."""
    all_dim = rope.scaling.get("mscale_all_dim") if rope.kind != "default" else None
    return (0.1 * all_dim * math.log(rope.factor) + 1) ** 2 if all_dim and rope.factor > 1 else 1.0
