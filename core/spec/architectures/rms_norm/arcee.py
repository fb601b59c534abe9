"""Arcee (AFM): Llama with a plain feed-forward part and squared ReLU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMES, VALUES, biased, decoder, plain
from ...stack import StackSpec
from .. import Architecture

ARCEE_DEFAULTS = DEFAULTS | {
    "hidden_size": 2560,
    "intermediate_size": 18432,
    "hidden_act": "relu2",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
}
ARCEE_NAMES = replace(NAMES, up=("mlp.up_proj",))


def stack(hf: Mapping[str, Any]) -> StackSpec:
    mlp = plain(hf["intermediate_size"], hf["hidden_act"], bias=hf["mlp_bias"])
    return decoder(hf, attention=biased(hf), feed_forward=mlp, names=ARCEE_NAMES)


ARCHITECTURE = Architecture(stack=stack, defaults=ARCEE_DEFAULTS, values=VALUES, theta=1e4, end_token=128001)
