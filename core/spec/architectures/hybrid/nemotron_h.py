"""Nemotron-H: each layer is one part, behind one norm: Mamba-2, attention without rotation, a feed-forward part or experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...decoder import DEFAULTS, VALUES, biased, decoder, plain, without
from ...experts import NAMES, by_sigmoids
from ...experts import VALUES as EXPERTS_VALUES
from ...hf_values import COUNT, FLAG, NULL, POSITIVE, TEXT, TEXTS
from ...hybrid import ALL_TIMES, ATTENTION, MAMBA, TIMES, kinds_of_layers, silu_only, times_of
from ...mamba import Mamba2Spec
from ...names import Naming
from ...stack import ExpertsSpec, MLPSpec, StackSpec
from .. import Architecture

NEMOTRON_NAMES = replace(
    NAMES,
    words="model.embeddings",
    attention_norm="norm",
    mlp_norm="norm",
    mixer="mixer",
    qkv=("mixer.q_proj", "mixer.k_proj", "mixer.v_proj"),
    attention_out="mixer.o_proj",
    up=("mixer.up_proj",),
    down="mixer.down_proj",
    router="mixer.gate",
    router_correction="mixer.gate.e_score_correction_bias",
    expert_up=("mixer.experts.{}.up_proj",),
    expert_down="mixer.experts.{}.down_proj",
    shared_up=("mixer.shared_experts.up_proj",),
    shared_down="mixer.shared_experts.down_proj",
    final_norm="model.norm_f",
)
#: Letters of hybrid_override_pattern.
LETTERS = {"M": MAMBA, "*": ATTENTION, "-": "mlp", "E": "moe"}
NEMOTRON_DEFAULTS = without(DEFAULTS, "num_hidden_layers", "hidden_act", "rms_norm_eps") | {
    "vocab_size": 131072,
    "intermediate_size": 21504,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "layer_norm_epsilon": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
    "use_bias": False,
    "mlp_hidden_act": "relu2",
    "mamba_hidden_act": "silu",
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "n_groups": 8,
    "conv_kernel": 4,
    "use_conv_bias": True,
    "time_step_limit": ALL_TIMES,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
    "moe_latent_size": None,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
}
NEMOTRON_VALUES = {
    **VALUES,
    **EXPERTS_VALUES,
    **dict.fromkeys(("mamba_num_heads", "mamba_head_dim", "ssm_state_size", "n_groups", "conv_kernel"), COUNT),
    **dict.fromkeys(("mlp_hidden_act", "mamba_hidden_act", "hybrid_override_pattern"), TEXT),
    **dict.fromkeys(("use_bias", "use_conv_bias"), FLAG),
    "layers_block_type": TEXTS | NULL,
    "moe_shared_expert_intermediate_size": COUNT,
    "moe_latent_size": COUNT | NULL,
    "layer_norm_epsilon": POSITIVE,
    "time_step_limit": TIMES | NULL,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    kinds = _kinds(hf)
    if "moe" in kinds and hf["moe_latent_size"] is not None:
        raise ModelError(f"config.json: moe_latent_size {hf['moe_latent_size']}, experts of projected tokens, is not supported")
    silu_only(hf["mamba_hidden_act"])
    mixer = Mamba2Spec(
        num_heads=hf["mamba_num_heads"],
        head_dim=hf["mamba_head_dim"],
        num_groups=hf["n_groups"],
        state_size=hf["ssm_state_size"],
        width=hf["conv_kernel"],
        bias=hf["use_bias"],
        out_bias=hf["use_bias"],
        conv_bias=hf["use_conv_bias"],
        times=times_of(hf["time_step_limit"]),
        norm_eps=hf["layer_norm_epsilon"],
    )
    act = hf["mlp_hidden_act"]
    experts = ExpertsSpec(
        count=hf["n_routed_experts"],
        routing=by_sigmoids(hf),
        size=hf["moe_intermediate_size"],
        activation=act,
        gated=False,
        shared_size=hf["moe_shared_expert_intermediate_size"],
        shared_bias=hf["mlp_bias"],
    )
    parts: dict[str, MLPSpec | ExpertsSpec] = {"mlp": plain(hf["intermediate_size"], act, bias=hf["mlp_bias"]), "moe": experts}
    return decoder(
        {**hf, "num_hidden_layers": len(kinds), "rms_norm_eps": hf["layer_norm_epsilon"]},
        attention={**biased(hf), "rope": None},
        mixers=[mixer if kind == MAMBA else None for kind in kinds],
        attends=[kind == ATTENTION for kind in kinds],
        feed_forward=[parts.get(kind) for kind in kinds],
        names=NEMOTRON_NAMES,
        naming=Naming(("model.", "backbone."), splits=mixer.splits("mixer"), unused=("mtp.",)),
    )


def _kinds(hf: Mapping[str, Any]) -> list[str]:
    """Of each layer. Raises ModelError for one that we do not have."""
    pattern, given = hf.get("hybrid_override_pattern"), hf.get("layers_block_type")
    if given is not None:
        return kinds_of_layers(given, "mlp", "moe")
    if pattern is None:
        raise ModelError("config.json: neither layers_block_type nor hybrid_override_pattern says what the layers are")
    if unknown := sorted(set(pattern) - set(LETTERS)):
        raise ModelError(
            f"config.json: hybrid_override_pattern has {', '.join(unknown)}, which is not supported (known: {''.join(LETTERS)})"
        )
    return [LETTERS[letter] for letter in pattern]


#: Keys that stand for these, as in transformers.
OTHER_NAMES = {"layer_types": "layers_block_type", "num_local_experts": "n_routed_experts"}
ARCHITECTURE = Architecture(stack=stack, other_names=OTHER_NAMES, defaults=NEMOTRON_DEFAULTS, values=NEMOTRON_VALUES, end_token=2)
