"""PEGASUS (arXiv 1912.08777): norms before the parts, positions that are sines and cosines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...stack import StackSpec
from .. import Architecture
from . import bart


def stack(hf: Mapping[str, Any]) -> StackSpec:
    return bart.bart(hf, pre_norm=True, embedding_norm=False, num_positions=hf["max_position_embeddings"], sinusoids="exclusive")


ARCHITECTURE = Architecture(
    stack=stack,
    defaults={**bart.DEFAULTS, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
    values=bart.VALUES,
    other_names=bart.OTHER_NAMES,
    end_token=1,
)
