"""mBART (arXiv 2001.08210): BART with norms before the parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...stack import StackSpec
from .. import Architecture
from . import bart


def stack(hf: Mapping[str, Any]) -> StackSpec:
    positions = {"num_positions": hf["max_position_embeddings"] + bart.OFFSET, "position_offset": bart.OFFSET}
    return bart.bart(hf, pre_norm=True, embedding_norm=True, **positions)


ARCHITECTURE = Architecture(
    stack=stack, defaults={**bart.DEFAULTS, "decoder_start_token_id": None}, values=bart.VALUES, other_names=bart.OTHER_NAMES, end_token=2
)
