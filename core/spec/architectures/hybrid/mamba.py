"""Mamba: nothing but its layers, which are one part each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...hf_values import COUNT, NULL, NUMBER, TEXT
from ...hybrid import rank_of
from ...mamba import MambaSpec
from ...stack import StackSpec
from .. import Architecture
from .mamba2 import MAMBA_VALUES, of_mixers

MAMBA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 50280,
    "hidden_size": 768,
    "intermediate_size": None,
    "state_size": 16,
    "num_hidden_layers": 32,
    "layer_norm_epsilon": 1e-5,
    "expand": 2,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "time_step_rank": "auto",
    "tie_word_embeddings": True,
}
VALUES_OF_MAMBA = MAMBA_VALUES | {"intermediate_size": COUNT | NULL, "time_step_rank": COUNT | TEXT, "expand": NUMBER}


def stack(hf: Mapping[str, Any], **differences: Any) -> StackSpec:
    """`differences`: of the `MambaSpec`."""
    return of_mixers(
        hf,
        MambaSpec(
            size=hf["intermediate_size"] or int(hf["expand"] * hf["hidden_size"]),
            state_size=hf["state_size"],
            rank=rank_of(hf["time_step_rank"], hf["hidden_size"]),
            width=hf["conv_kernel"],
            bias=hf["use_bias"],
            conv_bias=hf["use_conv_bias"],
            **differences,
        ),
    )


ARCHITECTURE = Architecture(stack=stack, defaults=MAMBA_DEFAULTS, values=VALUES_OF_MAMBA, end_token=0)
