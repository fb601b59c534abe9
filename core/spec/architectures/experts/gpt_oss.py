"""gpt-oss: experts with biases and a clamped activation, sinks in attention, and a window in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import VariantError
from ...decoder import DEFAULTS, FULL, NAMING, SLIDING, decoder, windows_of
from ...experts import NAMES, VALUES
from ...hf_values import POSITIVE
from ...names import Stack
from ...stack import ExpertsSpec, RoutingSpec, StackSpec
from .. import Architecture

GPT_OSS_NAMES = replace(NAMES, router="mlp.router", sinks="self_attn.sinks")
_UP, _DOWN = ("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj"), ("mlp.experts.{}.down_proj",)
STACKS = {
    "mlp.experts.gate_up_proj": Stack(tuple(f"{one}.weight" for one in _UP), interleaved=True, transposed=True),
    "mlp.experts.gate_up_proj_bias": Stack(tuple(f"{one}.bias" for one in _UP), interleaved=True),
    "mlp.experts.down_proj": Stack(tuple(f"{one}.weight" for one in _DOWN), transposed=True),
    "mlp.experts.down_proj_bias": Stack(tuple(f"{one}.bias" for one in _DOWN)),
}
ROPE = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
GPT_OSS_DEFAULTS = DEFAULTS | {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {**ROPE, "original_max_position_embeddings": 4096},
    "attention_bias": True,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    if (hf["swiglu_alpha"], hf["swiglu_limit"]) != (1.702, 7.0):
        raise VariantError("config.json: swiglu_alpha and swiglu_limit other than 1.702 and 7 are not supported for gpt_oss")
    experts = ExpertsSpec(
        count=hf["num_local_experts"],
        routing=RoutingSpec(per_token=hf["num_experts_per_tok"], scores="chosen", bias=True),
        size=hf["intermediate_size"],
        activation="clamped_swiglu",
        bias=True,
    )
    kinds = hf.get("layer_types") or [FULL if index % 2 else SLIDING for index in range(hf["num_hidden_layers"])]
    bias = bool(hf["attention_bias"])
    return decoder(
        hf,
        attention={"qkv_bias": bias, "out_bias": bias, "sinks": True},
        windows=windows_of(kinds, hf["sliding_window"]),
        feed_forward=experts,
        names=GPT_OSS_NAMES,
        naming=replace(NAMING, stacks=STACKS),
    )


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"num_experts": "num_local_experts"}
ARCHITECTURE = Architecture(
    stack=stack,
    other_names=OTHER_NAMES,
    defaults=GPT_OSS_DEFAULTS,
    values=VALUES | dict.fromkeys(("swiglu_alpha", "swiglu_limit"), POSITIVE),
    theta=1.5e5,
    unsafe_dtypes=frozenset({"float16"}),
)
