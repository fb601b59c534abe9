"""Granite-MoE: Granite with experts, whose matrices are one tensor a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import NAMING
from ...experts import NAMES, VALUES
from ...names import Stack
from ...stack import ExpertsSpec, RoutingSpec, StackSpec
from .. import Architecture
from ..rms_norm import granite

STACKS = {
    "block_sparse_moe.input_linear.weight": Stack(("mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.up_proj.weight")),
    "block_sparse_moe.output_linear.weight": Stack(("mlp.experts.{}.down_proj.weight",)),
}
GRANITE_NAMES = replace(NAMES, router="block_sparse_moe.router.layer")
GRANITE_DEFAULTS = {key: value for key, value in granite.ARCHITECTURE.defaults.items() if key != "mlp_bias"}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    experts = ExpertsSpec(
        count=hf["num_local_experts"],
        routing=RoutingSpec(per_token=hf["num_experts_per_tok"], scores="chosen"),
        size=hf["intermediate_size"],
        activation=hf["hidden_act"],
    )
    return granite.stack(hf, feed_forward=experts, names=GRANITE_NAMES, naming=replace(NAMING, stacks=STACKS))


ARCHITECTURE = Architecture(
    stack=stack,
    defaults=GRANITE_DEFAULTS | {"num_local_experts": 8, "num_experts_per_tok": 2},
    values={**VALUES, **granite.ARCHITECTURE.values},
    theta=1e4,
    end_token=2,
)
