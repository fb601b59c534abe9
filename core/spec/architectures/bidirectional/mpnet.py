"""MPNet (all-mpnet-base): RoBERTa without token types, whose scores have a learned bias by distance (arXiv 2004.09297)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....errors import ModelError
from ...distances import DistanceSpec
from ...encoder import DEFAULTS, NAMES, VALUES, learned
from ...hf_values import COUNT
from ...stack import StackSpec
from .. import Architecture
from .roberta import HEAD

OWN_NAMES = replace(
    NAMES,
    relative="encoder.relative_attention_bias",
    qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    attention_out="attention.attn.o",
    attention_norm="attention.LayerNorm",
)
#: Its code counts with these, and with a padding token of 1, whatever config.json has.
DISTANCES = DistanceSpec(buckets=32, max_distance=128)


def stack(hf: Mapping[str, Any]) -> StackSpec:
    buckets = hf["relative_attention_num_buckets"]
    if buckets != DISTANCES.buckets:
        raise ModelError(f"config.json: relative_attention_num_buckets {buckets} is not supported for mpnet (known: {DISTANCES.buckets})")
    return learned(
        {**hf, "type_vocab_size": 0},
        "mpnet.",
        names=OWN_NAMES,
        relative=DISTANCES,
        padding_token=1,
        classifier=HEAD,
    )


ARCHITECTURE = Architecture(
    stack=stack,
    defaults={key: value for key, value in DEFAULTS.items() if key != "type_vocab_size"}
    | {"vocab_size": 30527, "pad_token_id": 1, "relative_attention_num_buckets": 32},
    values=VALUES | {"relative_attention_num_buckets": COUNT},
    is_encoder=True,
)
