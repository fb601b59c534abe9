"""Nemotron: norms of mean and variance that multiply by one more than they store, squared ReLU, half of a head turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMES, VALUES, biased, decoder, layer_norm, plain, without
from ...hf_values import POSITIVE
from ...stack import StackSpec
from .. import Architecture

NEMOTRON_DEFAULTS = without(DEFAULTS, "rms_norm_eps") | {
    "vocab_size": 256000,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_attention_heads": 48,
    "hidden_act": "relu2",
    "max_position_embeddings": 4096,
    "norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
}
NEMOTRON_NAMES = replace(NAMES, up=("mlp.up_proj",))


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return decoder(
        hf,
        attention=biased(hf),
        feed_forward=plain(hf["intermediate_size"], hf["hidden_act"], bias=hf["mlp_bias"]),
        names=NEMOTRON_NAMES,
        norm=layer_norm(hf, "norm_eps", offset=1.0),
    )


ARCHITECTURE = Architecture(
    stack=stack, defaults=NEMOTRON_DEFAULTS, values=VALUES | {"norm_eps": POSITIVE}, theta=1e4, partial=0.5, end_token=3
)
