"""GLM-4 as transformers first had it: half of a head turns, neighbours with each other; gate and up are one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...decoder import DEFAULTS, NAMES, NAMING, VALUES, decoder
from ...names import Names
from ...rope import RopeConfig
from ...stack import StackSpec
from .. import Architecture
from .phi3 import GATE_UP

GLM_DEFAULTS = DEFAULTS | {
    "vocab_size": 151552,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-07,
    "attention_bias": True,
}
END_TOKENS = [151329, 151336, 151338]


def stack(hf: Mapping[str, Any], names: Names = NAMES) -> StackSpec:
    rope = RopeConfig.from_hf(hf, hf["head_dim"], interleaved=True)
    attention = {"qkv_bias": hf["attention_bias"], "rope": rope}
    return decoder(hf, attention=attention, names=names, naming=replace(NAMING, splits={".gate_up_proj.": GATE_UP}))


ARCHITECTURE = Architecture(stack=stack, defaults=GLM_DEFAULTS | {"eos_token_id": END_TOKENS}, values=VALUES, theta=1e4, partial=0.5)
