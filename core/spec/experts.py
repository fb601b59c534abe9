"""Mixtures of experts as most decoders describe them in config.json, on top of `decoder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import ModelError
from .decoder import NAMES as LLAMA_NAMES
from .decoder import NAMING, gated
from .decoder import VALUES as DECODER_VALUES
from .hf_values import COUNT, COUNTS, FLAG, NULL, POSITIVE, WHOLE, Kind
from .names import Naming
from .stack import ExpertsSpec, MLPSpec, RoutingSpec

NAMES = replace(
    LLAMA_NAMES,
    router="mlp.gate",
    router_correction="mlp.gate.e_score_correction_bias",
    expert_up=("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj"),
    expert_down="mlp.experts.{}.down_proj",
    shared_up=("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
    shared_down="mlp.shared_experts.down_proj",
)
VALUES: dict[str, Kind] = DECODER_VALUES | {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), COUNT),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "n_group", "topk_group", "decoder_sparse_step", "moe_layer_interval"), COUNT),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), COUNT),
    **dict.fromkeys(("n_shared_experts", "moe_num_shared_experts", "first_k_dense_replace", "moe_layer_start_index"), WHOLE | NULL),
    **dict.fromkeys(("num_nextn_predict_layers", "num_mtp_layers"), WHOLE | NULL),
    "mlp_only_layers": COUNTS | NULL,
    "routed_scaling_factor": POSITIVE,
    **dict.fromkeys(("norm_topk_prob", "use_qk_norm", "qkv_bias", "use_bias"), FLAG | NULL),
}
#: Absent keys of config.json, of Qwen's kind.
STEP_DEFAULTS: dict[str, Any] = {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": False}


def where(hf: Mapping[str, Any], sparse: Callable[[int], bool], experts: ExpertsSpec, dense: MLPSpec) -> list[MLPSpec | ExpertsSpec]:
    """The feed-forward part of each layer. Raises ModelError where no layer has experts."""
    parts = [experts if sparse(index) else dense for index in range(hf["num_hidden_layers"])]
    if experts not in parts:
        raise ModelError(f"config.json: no layer of this {hf['model_type']} model has experts, which is not supported")
    return parts


def beside_shared(hf: Mapping[str, Any], routing: RoutingSpec, **more: Any) -> ExpertsSpec:
    """Experts beside one for all tokens that is as large as `n_shared_experts` of them; `more` of the `ExpertsSpec`."""
    size = hf["moe_intermediate_size"]
    shared_size = size * (hf["n_shared_experts"] or 0)
    return ExpertsSpec(
        count=hf["n_routed_experts"], routing=routing, size=size, activation=hf["hidden_act"], shared_size=shared_size, **more
    )


def by_sigmoids(hf: Mapping[str, Any]) -> RoutingSpec:
    """DeepSeek-V3's choice: by sigmoids and a learned correction, from the groups whose two best experts are best."""
    return RoutingSpec(
        per_token=hf["num_experts_per_tok"],
        scores="sigmoid",
        correction=1,
        groups=hf["n_group"] or 1,
        groups_chosen=hf["topk_group"] or 1,
        group_by=2,
        normalized=bool(hf["norm_topk_prob"]),
        scale=hf["routed_scaling_factor"],
    )


def without_further(hf: Mapping[str, Any], further: int | None) -> Naming:
    """Llama's naming, without so many layers behind the last one that guess further tokens ahead."""
    layers = hf["num_hidden_layers"]
    return replace(NAMING, unused=tuple(f"model.layers.{layers + index}." for index in range(further or 0)))


def by_step(hf: Mapping[str, Any], experts: ExpertsSpec) -> list[MLPSpec | ExpertsSpec]:
    """Experts in every `decoder_sparse_step`-th layer that is not among `mlp_only_layers`."""
    step, dense = hf["decoder_sparse_step"], hf["mlp_only_layers"] or ()
    return where(hf, lambda index: index not in dense and (index + 1) % step == 0, experts, gated(hf))
