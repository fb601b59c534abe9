"""M2M-100 and NLLB-200 (arXiv 2010.11125, 2207.04672): norms before the parts, sines and cosines that begin behind the padding token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...stack import StackSpec
from .. import Architecture
from . import bart


def stack(hf: Mapping[str, Any]) -> StackSpec:
    padding = 1 if hf["pad_token_id"] is None else hf["pad_token_id"]
    return bart.bart(
        hf,
        pre_norm=True,
        embedding_norm=False,
        logits_bias=False,
        num_positions=hf["max_position_embeddings"] + padding + 1,
        padding_token=padding,
        sinusoids="inclusive",
    )


ARCHITECTURE = Architecture(
    stack=stack,
    defaults={**bart.DEFAULTS, "vocab_size": 128112, "activation_function": "relu", "scale_embedding": True},
    values=bart.VALUES,
    other_names=bart.OTHER_NAMES,
    end_token=2,
)
