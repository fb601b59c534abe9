"""Qwen3-Next: three layers of a gated delta network for each one that attends, whose heads have gates; experts, one of them for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...decoder import DEFAULTS, FULL, NAMING, biased, decoder, qk_norm
from ...delta import DeltaSpec
from ...experts import STEP_DEFAULTS, VALUES, by_step
from ...hf_values import COUNT, NULL
from ...names import Split
from ...stack import ExpertsSpec, NormSpec, RoutingSpec, StackSpec
from .. import MEDIA, Architecture
from ..experts.qwen2_moe import QWEN_NAMES

#: The layer of queries is that of gates too, in files.
DELTA_NAMES = replace(
    QWEN_NAMES,
    qkv=("self_attn.query", "self_attn.k_proj", "self_attn.v_proj"),
    gate="self_attn.gate",
    mixer="linear_attn",
)
#: Sizes of the delta network.
SIZES = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
DELTA_DEFAULTS = DEFAULTS | {
    "num_attention_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "attention_bias": False,
    **SIZES,
}
NEXT_DEFAULTS = {
    **DELTA_DEFAULTS,
    **STEP_DEFAULTS,
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 10,
    "num_experts": 512,
    "norm_topk_prob": True,
}
DELTA_VALUES = VALUES | dict.fromkeys(SIZES, COUNT) | {"full_attention_interval": COUNT | NULL}
#: Of layers with a delta network, in layer_types.
LINEAR = "linear_attention"


def delta_network(hf: Mapping[str, Any], **differences: Any) -> StackSpec:
    """With delta networks where `layer_types`, or `full_attention_interval` of layers that attend, says so. Raises ModelError for other
    kinds, and for an activation that the convolution does not have."""
    interval = hf.get("full_attention_interval") or 4
    kinds = hf.get("layer_types") or [LINEAR if (index + 1) % interval else FULL for index in range(hf["num_hidden_layers"])]
    if unknown := sorted({*kinds} - {FULL, LINEAR}):
        raise ModelError(f"config.json: layer_types has {', '.join(unknown)}, which is not supported here (known: {FULL}, {LINEAR})")
    if hf["hidden_act"] not in ("silu", "swish"):
        raise ModelError(f"config.json: activation {hf['hidden_act']!r} of linear attention is not supported (known: silu)")
    spec = DeltaSpec(
        num_heads=hf["linear_num_value_heads"],
        num_key_heads=hf["linear_num_key_heads"],
        key_dim=hf["linear_key_head_dim"],
        value_dim=hf["linear_value_head_dim"],
        width=hf["linear_conv_kernel_dim"],
        norm_eps=hf["rms_norm_eps"],
    )
    queries = Split(("self_attn.query.", "self_attn.gate."), (hf["head_dim"],) * 2, hf["num_attention_heads"])
    splits = {"self_attn.q_proj.": queries, **spec.splits("linear_attn")}
    renames = {"language_model.": ""}  # files that hold what reads images, too
    return decoder(
        hf,
        attention={**biased(hf), "gated": True, "qk_norm": qk_norm(hf, offset=1.0)},
        mixers=[spec if kind == LINEAR else None for kind in kinds],
        **{
            "names": DELTA_NAMES,
            "naming": replace(NAMING, splits=splits, renames=renames, media=MEDIA, unused=("mtp.",)),
            "norm": NormSpec(eps=hf["rms_norm_eps"], offset=1.0),
            **differences,
        },
    )


def experts_of(hf: Mapping[str, Any]) -> ExpertsSpec:
    """Experts by shares of a softmax, and one for all, weighed by a gate."""
    return ExpertsSpec(
        count=hf["num_experts"],
        routing=RoutingSpec(per_token=hf["num_experts_per_tok"], normalized=bool(hf["norm_topk_prob"])),
        size=hf["moe_intermediate_size"],
        activation=hf["hidden_act"],
        shared_size=hf["shared_expert_intermediate_size"],
        shared_gate=True,
    )


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return delta_network(hf, feed_forward=by_step(hf, experts_of(hf)))


ARCHITECTURE = Architecture(stack=stack, defaults=NEXT_DEFAULTS, values=DELTA_VALUES, theta=1e4, partial=0.25)
