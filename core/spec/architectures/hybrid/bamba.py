"""Bamba: Mamba-2 layers, and some that attend; half of each head turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...decoder import DEFAULTS, NAMES, NAMING, VALUES, biased, decoder, gated, without
from ...hf_values import COUNT, COUNTS, FLAG, NULL, TEXT
from ...hybrid import ALL_TIMES, TIMES, silu_only, times_of
from ...mamba import Mamba2Spec
from ...stack import StackSpec
from .. import Architecture

BAMBA_NAMES = replace(
    NAMES,
    mixer="mamba",
    mlp_norm="pre_ff_layernorm",
    up=("feed_forward.gate_proj", "feed_forward.up_proj"),
    down="feed_forward.down_proj",
    final_norm="model.final_layernorm",
)
#: Of mixers in models that have Bamba's.
MAMBA_DEFAULTS: dict[str, Any] = {
    "mamba_n_heads": 128,
    "mamba_d_head": "auto",
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "time_step_limit": ALL_TIMES,
}
MAMBA_VALUES = {
    **dict.fromkeys(("mamba_n_heads", "mamba_n_groups", "mamba_d_state", "mamba_d_conv", "mamba_expand"), COUNT),
    "mamba_d_head": COUNT | TEXT,
    **dict.fromkeys(("mamba_conv_bias", "mamba_proj_bias"), FLAG),
    "time_step_limit": TIMES | NULL,
}
BAMBA_DEFAULTS = without(DEFAULTS, "head_dim") | {
    "vocab_size": 128000,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
    "attn_layer_indices": None,
    **MAMBA_DEFAULTS,
}


def mamba2(hf: Mapping[str, Any], size: int | None = None, **differences: Any) -> Mamba2Spec:
    """The mixer by Bamba's keys, of `size` features (None: `mamba_expand` times the model's). Raises ModelError for numbers that do not
    fit.

    Args:
        differences: of the `Mamba2Spec`.
    """
    size, heads = size or hf["mamba_expand"] * hf["hidden_size"], hf["mamba_n_heads"]
    head_dim = hf["mamba_d_head"]
    head_dim = size // heads if isinstance(head_dim, str) else head_dim
    if heads * head_dim != size:
        raise ModelError(f"config.json: {heads} Mamba heads of {head_dim} features (mamba_d_head) are not {size} features together")
    silu_only(hf["hidden_act"])
    given: dict[str, Any] = {
        "bias": hf["mamba_proj_bias"],
        "out_bias": hf["mamba_proj_bias"],
        "norm_eps": hf["rms_norm_eps"],
        **differences,
    }
    return Mamba2Spec(
        num_heads=heads,
        head_dim=head_dim,
        num_groups=hf["mamba_n_groups"],
        state_size=hf["mamba_d_state"],
        width=hf["mamba_d_conv"],
        conv_bias=hf["mamba_conv_bias"],
        times=times_of(hf["time_step_limit"]),
        **given,
    )


def stack(hf: Mapping[str, Any]) -> StackSpec:
    mixer, attending = mamba2(hf), hf["attn_layer_indices"] or ()
    mixers = [None if index in attending else mixer for index in range(hf["num_hidden_layers"])]
    naming = replace(NAMING, splits=mixer.splits("mamba"))
    mlp = gated(hf, bias=hf["mlp_bias"])
    return decoder(hf, attention=biased(hf), mixers=mixers, feed_forward=mlp, names=BAMBA_NAMES, naming=naming)


VALUES_OF_BAMBA = VALUES | MAMBA_VALUES | {"attn_layer_indices": COUNTS | NULL}
ARCHITECTURE = Architecture(stack=stack, defaults=BAMBA_DEFAULTS, values=VALUES_OF_BAMBA, theta=1e4, partial=0.5, end_token=2)
