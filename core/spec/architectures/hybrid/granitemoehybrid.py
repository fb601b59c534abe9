"""Granite 4: Granite with Mamba-2 layers, and experts beside one for all tokens, or that one alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import NAMING, without
from ...experts import VALUES
from ...hf_values import NULL, TEXT, TEXTS, WHOLE
from ...hybrid import MAMBA, kinds_of_layers
from ...names import Split
from ...stack import ExpertsSpec, MLPSpec, RoutingSpec, StackSpec
from .. import Architecture
from ..experts.granitemoe import GRANITE_NAMES, STACKS
from ..rms_norm import granite
from .bamba import MAMBA_DEFAULTS, MAMBA_VALUES, mamba2

SHARED = ("shared_mlp.gate_proj", "shared_mlp.up_proj"), "shared_mlp.down_proj"
HYBRID_NAMES = replace(GRANITE_NAMES, mixer="mamba", shared_up=SHARED[0], shared_down=SHARED[1])
#: Of a model without experts.
DENSE_NAMES = replace(HYBRID_NAMES, up=SHARED[0], down=SHARED[1])
SPLITS = {"shared_mlp.input_linear.": Split(tuple(f"{one}." for one in SHARED[0]))}
RENAMES = {"shared_mlp.output_linear.": f"{SHARED[1]}."}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    mixer = mamba2(hf)
    kinds = kinds_of_layers(hf["layer_types"] or [MAMBA] * hf["num_hidden_layers"])
    feed_forward: MLPSpec | ExpertsSpec = MLPSpec(size=hf["shared_intermediate_size"], activation=hf["hidden_act"])
    if hf["num_local_experts"]:
        feed_forward = ExpertsSpec(
            count=hf["num_local_experts"],
            routing=RoutingSpec(per_token=hf["num_experts_per_tok"], scores="chosen"),
            size=hf["intermediate_size"],
            activation=hf["hidden_act"],
            shared_size=hf["shared_intermediate_size"],
        )
    return granite.stack(
        hf,
        attention={} if hf["position_embedding_type"] == "rope" else {"rope": None},
        mixers=[mixer if kind == MAMBA else None for kind in kinds],
        feed_forward=feed_forward,
        names=HYBRID_NAMES if hf["num_local_experts"] else DENSE_NAMES,
        naming=replace(NAMING, stacks=STACKS, splits=SPLITS | mixer.splits("mamba"), renames=RENAMES),
    )


GRANITE_HYBRID_DEFAULTS = without(granite.ARCHITECTURE.defaults, "mlp_bias") | {
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 1024,
    "position_embedding_type": None,
    "layer_types": None,
    **MAMBA_DEFAULTS,
}
ARCHITECTURE = Architecture(
    stack=stack,
    other_names={"layers_block_type": "layer_types"},
    defaults=GRANITE_HYBRID_DEFAULTS,
    values={
        **VALUES,
        **granite.ARCHITECTURE.values,
        **MAMBA_VALUES,
        **dict.fromkeys(("num_local_experts", "shared_intermediate_size"), WHOLE),
        "position_embedding_type": TEXT | NULL,
        "layer_types": TEXTS | NULL,
    },
    theta=1e4,
    end_token=2,
)
