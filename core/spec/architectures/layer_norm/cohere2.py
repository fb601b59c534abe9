"""Command R7B and Command A: Command R with windows in three layers of four, which alone have rotation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...decoder import FULL, SLIDING, windows_of
from ...stack import StackSpec
from .. import Architecture
from . import cohere


def stack(hf: Mapping[str, Any]) -> StackSpec:
    every = hf.get("sliding_window_pattern") or 4
    kinds = hf.get("layer_types") or [SLIDING if (i + 1) % every else FULL for i in range(hf["num_hidden_layers"])]
    still = [{} if kind == SLIDING else {"rope": None} for kind in kinds]
    return cohere.stack(hf, windows=windows_of(kinds, hf["sliding_window"]), by_layer=still)


ARCHITECTURE = Architecture(
    stack=stack, defaults=cohere.COHERE_DEFAULTS | {"sliding_window": 4096}, values=cohere.COHERE_VALUES, theta=1e4, end_token=255001
)
