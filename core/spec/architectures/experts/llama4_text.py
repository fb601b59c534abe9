"""Llama 4: attention within chunks where queries and keys are rotated, and over everything, with queries that grow, where they are not;
experts that read a token times its weight, in some layers or all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...decoder import DEFAULTS, FULL, NAMING, biased, decoder
from ...experts import NAMES, VALUES, where
from ...hf_values import COUNT, COUNTS, FLAG, NULL, POSITIVE
from ...names import Stack
from ...rope import RopeConfig
from ...stack import ExpertsSpec, MLPSpec, NormSpec, RoutingSpec, StackSpec
from .. import Architecture

CHUNKED = "chunked_attention"
LLAMA4_NAMES = replace(
    NAMES,
    up=("feed_forward.gate_proj", "feed_forward.up_proj"),
    down="feed_forward.down_proj",
    router="feed_forward.router",
    expert_up=("feed_forward.experts.{}.gate_proj", "feed_forward.experts.{}.up_proj"),
    expert_down="feed_forward.experts.{}.down_proj",
    shared_up=("feed_forward.shared_expert.gate_proj", "feed_forward.shared_expert.up_proj"),
    shared_down="feed_forward.shared_expert.down_proj",
)
_UP, _DOWN = LLAMA4_NAMES.expert_up, (LLAMA4_NAMES.expert_down,)
STACKS = {
    "feed_forward.experts.gate_up_proj": Stack(tuple(f"{one}.weight" for one in _UP), transposed=True),
    "feed_forward.experts.down_proj": Stack(tuple(f"{one}.weight" for one in _DOWN), transposed=True),
}
LLAMA4_DEFAULTS = DEFAULTS | {
    "vocab_size": 202048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "use_qk_norm": True,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "attn_scale": 0.1,
}
MORE_VALUES = {
    **dict.fromkeys(("intermediate_size_mlp", "interleave_moe_layer_step", "no_rope_layer_interval", "floor_scale"), COUNT),
    "attention_chunk_size": COUNT | NULL,
    **dict.fromkeys(("moe_layers", "no_rope_layers"), COUNTS | NULL),
    **dict.fromkeys(("use_qk_norm", "attn_temperature_tuning", "attention_bias"), FLAG),
    "attn_scale": POSITIVE,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    layers, chunk, step = hf["num_hidden_layers"], hf["attention_chunk_size"], hf["interleave_moe_layer_step"]
    rotated = hf.get("no_rope_layers") or [int((index + 1) % hf["no_rope_layer_interval"] != 0) for index in range(layers)]
    kinds = hf.get("layer_types") or [CHUNKED if turns and chunk else FULL for turns in rotated]
    if len(rotated) < layers or set(kinds) - {FULL, CHUNKED} or (CHUNKED in kinds and not chunk):
        raise ModelError(
            f"config.json: layers of {', '.join(sorted(set(kinds)))} with no_rope_layers of {len(rotated)} do not fit each other"
        )
    rope = RopeConfig.from_hf(hf, hf["head_dim"], interleaved=True)
    norm = NormSpec(eps=hf["rms_norm_eps"], weighted=False) if hf["use_qk_norm"] else None
    grown = (float(hf["floor_scale"]), float(hf["attn_scale"])) if hf["attn_temperature_tuning"] else None
    turning = {"rope": rope, "qk_norm": norm, "norm_after_rotation": norm is not None}
    by_layer = [
        {"chunk": chunk if kind == CHUNKED else None, **(turning if turns else {"rope": None, "growth": grown})}
        for turns, kind in zip(rotated, kinds, strict=False)
    ]
    experts = ExpertsSpec(
        count=hf["num_local_experts"],
        routing=RoutingSpec(per_token=hf["num_experts_per_tok"], scores="sigmoid", scales_input=True),
        size=hf["intermediate_size"],
        activation=hf["hidden_act"],
        shared_size=hf["intermediate_size"],
    )
    sparse = hf.get("moe_layers") or range(step - 1, layers, step)
    parts = where(hf, lambda index: index in sparse, experts, MLPSpec(size=hf["intermediate_size_mlp"], activation=hf["hidden_act"]))
    naming = replace(NAMING, stacks=STACKS)
    return decoder(hf, attention=biased(hf), by_layer=by_layer, feed_forward=parts, names=LLAMA4_NAMES, naming=naming)


ARCHITECTURE = Architecture(stack=stack, defaults=LLAMA4_DEFAULTS, values=VALUES | MORE_VALUES, theta=5e5, end_token=2)
