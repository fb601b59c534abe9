"""Falcon-H1: attention and Mamba-2 beside each other in every layer, and factors almost everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...decoder import DEFAULTS, NAMING, VALUES, biased, decoder, gated
from ...hf_values import COUNT, FLAG, NULL, NUMBER, NUMBERS
from ...stack import StackSpec
from .. import Architecture
from .bamba import BAMBA_NAMES, MAMBA_DEFAULTS, MAMBA_VALUES, mamba2

FACTORS = (
    *("embedding_multiplier", "lm_head_multiplier", "key_multiplier", "attention_in_multiplier", "attention_out_multiplier"),
    *("ssm_in_multiplier", "ssm_out_multiplier"),
)
#: Their lists, and how many each has.
LISTS = {"mlp_multipliers": 2, "ssm_multipliers": 5}
FLAGS = {"mamba_rms_norm": False, "mamba_norm_before_gate": True, "projectors_bias": False}
FALCON_DEFAULTS = DEFAULTS | {
    "vocab_size": 128000,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
    "mamba_d_ssm": 1024,
    **MAMBA_DEFAULTS,
    **dict.fromkeys(FACTORS, 1.0),
    **{key: [1.0] * count for key, count in LISTS.items()},
    **FLAGS,
}
FALCON_VALUES = VALUES | {
    **MAMBA_VALUES,
    **dict.fromkeys(FACTORS, NUMBER),
    **dict.fromkeys(LISTS, NUMBERS | NULL),
    **dict.fromkeys(FLAGS, FLAG),
    "mamba_d_ssm": COUNT | NULL,
}


def stack(hf: Mapping[str, Any]) -> StackSpec:
    lists = {key: hf[key] or [1.0] * count for key, count in LISTS.items()}
    for key, count in LISTS.items():
        if len(lists[key]) != count:
            raise ModelError(f"config.json: {key} has {len(lists[key])} numbers; it must have {count}")
    for bias, factor in (("attention_bias", "attention_in_multiplier"), ("mamba_proj_bias", "ssm_in_multiplier")):
        if hf[bias] and hf[factor] != 1:
            raise ModelError(f"config.json: {bias} with {factor} {hf[factor]} is not supported")
    into, (of_gate, of_down) = hf["attention_in_multiplier"], lists["mlp_multipliers"]
    mixer = mamba2(
        hf,
        hf["mamba_d_ssm"],
        out_bias=hf["projectors_bias"],
        norm_eps=hf["rms_norm_eps"] if hf["mamba_rms_norm"] else None,
        gate_first=not hf["mamba_norm_before_gate"],
        factors=tuple(hf["ssm_in_multiplier"] * one for one in lists["ssm_multipliers"]),
        out_scale=hf["ssm_out_multiplier"],
    )
    head_dim, layers = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"], hf["num_hidden_layers"]
    return decoder(
        hf,
        attention={
            **biased(hf),
            "scale": head_dim**-0.5 * into**2 * hf["key_multiplier"],
            "out_scale": into * hf["attention_out_multiplier"],
        },
        mixers=[mixer] * layers,
        attends=[True] * layers,
        feed_forward=replace(gated(hf, bias=hf["mlp_bias"]), gate_scale=of_gate, out_scale=of_down),
        names=BAMBA_NAMES,
        naming=replace(NAMING, splits=mixer.splits("mamba")),
        embedding_scale=hf["embedding_multiplier"],
        logits_scale=hf["lm_head_multiplier"],
    )


ARCHITECTURE = Architecture(stack=stack, defaults=FALCON_DEFAULTS, values=FALCON_VALUES, theta=1e4, end_token=2)
